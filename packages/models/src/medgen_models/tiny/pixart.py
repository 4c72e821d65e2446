"""A miniature PixArt-alpha of 16 px."""

from pathlib import Path

from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

from medgen_models.tiny.autoencoders import tiny_autoencoder
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_t5_encoder


def tiny_pixart(seed: int = 0, *, sample_size: int = 8) -> PixArtAlphaPipeline:
    """Return a PixArt-alpha with random weights, whose images are twice as large as its latents.

    Args:
        seed: Seed of the weights.
        sample_size: Side of the latents; at 128 the transformer is told size and aspect ratio too, as diffusers
            has it for the model of 1024 px.
    """
    text_encoder, tokenizer = tiny_t5_encoder(seed, max_tokens=120)
    transformer = random_weights(
        lambda: PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=24,
            caption_channels=text_encoder.config.d_model,
            sample_size=sample_size,
            patch_size=2,
        ),
        seed,
    )
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=tiny_autoencoder(seed),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    )


def write_tiny_pixart(folder: Path, seed: int = 0) -> Path:
    """Write the miniature as the folder of a diffusers pipeline, and return it."""
    tiny_pixart(seed).save_pretrained(folder, safe_serialization=True)
    return folder
