"""A miniature Hunyuan-DiT of 32 px."""

from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline

from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_bert_encoder, tiny_t5_encoder


def tiny_hunyuan_dit(seed: int = 0, *, knows_size: bool = True) -> HunyuanDiTPipeline:
    """Return a Hunyuan-DiT of 32 px with random weights.

    Its latents are 8 times smaller, as in full size: the ordinary pipeline counts on it.

    Args:
        seed: Seed of the weights.
        knows_size: Whether the transformer is told style and image size, as version 1.1 is and version 1.2 is not.
    """
    text_encoder, tokenizer = tiny_bert_encoder(seed, max_tokens=77, width=16)
    text_encoder_2, tokenizer_2 = tiny_t5_encoder(seed + 1, max_tokens=256, width=32)
    return HunyuanDiTPipeline(
        vae=random_weights(_tiny_autoencoder, seed),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=random_weights(lambda: _tiny_transformer(knows_size), seed),
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.03, beta_schedule="scaled_linear", prediction_type="v_prediction"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_tiny_hunyuan_dit(folder: Path, seed: int = 0) -> Path:
    """Write the miniature as the folder of a diffusers pipeline, and return it."""
    tiny_hunyuan_dit(seed).save_pretrained(folder, safe_serialization=True)
    return folder


def _tiny_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=0.13025,
    )


def _tiny_transformer(knows_size: bool) -> HunyuanDiT2DModel:
    return HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=4,
        hidden_size=32,
        num_layers=4,
        mlp_ratio=2.0,
        learn_sigma=True,
        cross_attention_dim=16,
        cross_attention_dim_t5=32,
        pooled_projection_dim=8,
        text_len=77,
        text_len_t5=256,
        use_style_cond_and_image_meta_size=knows_size,
    )
