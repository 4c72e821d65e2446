"""A miniature Stable Diffusion 1 of 16 px."""

from pathlib import Path

from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from medgen_models.tiny.autoencoders import tiny_autoencoder
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_clip_encoder


def tiny_sd(seed: int = 0) -> StableDiffusionPipeline:
    """Return a Stable Diffusion 1 of 16 px with random weights and the noise schedule of the real one."""
    text_encoder, tokenizer = tiny_clip_encoder(seed)
    unet = random_weights(
        lambda: UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=text_encoder.config.hidden_size,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        seed,
    )
    return StableDiffusionPipeline(
        vae=tiny_autoencoder(seed),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_tiny_sd(folder: Path, seed: int = 0) -> Path:
    """Write the miniature as the folder of a diffusers pipeline, and return it."""
    tiny_sd(seed).save_pretrained(folder, safe_serialization=True)
    return folder
