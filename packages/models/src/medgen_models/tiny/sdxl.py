"""A miniature Stable Diffusion XL of 16 px."""

from pathlib import Path

from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from medgen_models.tiny.autoencoders import tiny_autoencoder
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_clip_encoder

_POOLED_WIDTH = 24  # unlike every other width here
_SIZE_WIDTH = 8  # of each of the six numbers that tell size and crop


def tiny_sdxl(seed: int = 0, *, zero_empty_prompt: bool = True) -> StableDiffusionXLPipeline:
    """Return a Stable Diffusion XL of 16 px with random weights and the noise schedule of the real one.

    Args:
        seed: Seed of the weights.
        zero_empty_prompt: Whether the pipeline guides away from zeros, not from the encoded empty prompt.
    """
    first, first_tokenizer = tiny_clip_encoder(seed)
    second, second_tokenizer = tiny_clip_encoder(
        seed + 1, width=48, projection_dim=_POOLED_WIDTH, padding="!"
    )
    unet = random_weights(
        lambda: UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=first.config.hidden_size + second.config.hidden_size,
            attention_head_dim=(2, 4),
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=_SIZE_WIDTH,
            projection_class_embeddings_input_dim=_POOLED_WIDTH + 6 * _SIZE_WIDTH,
        ),
        seed,
    )
    return StableDiffusionXLPipeline(
        vae=tiny_autoencoder(seed, scaling_factor=0.13025),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=first_tokenizer,
        tokenizer_2=second_tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        force_zeros_for_empty_prompt=zero_empty_prompt,
    )


def write_tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Write the miniature as the folder of a diffusers pipeline, and return it."""
    tiny_sdxl(seed).save_pretrained(folder, safe_serialization=True)
    return folder
