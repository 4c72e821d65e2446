"""A miniature FLUX.1-dev of 16 px."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from medgen_models.tiny.autoencoders import tiny_autoencoder
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_clip_encoder, tiny_t5_encoder


def write_tiny_flux(folder: Path, seed: int = 0) -> Path:
    """Write a FLUX.1-dev of 16 px with random weights as an ordinary pipeline folder, and return it.

    Prompts have up to 48 tokens of T5, which are letters here.
    """
    text_encoder, tokenizer = tiny_clip_encoder(seed, width=16)
    text_encoder_2, tokenizer_2 = tiny_t5_encoder(seed + 1, max_tokens=48, width=32)
    pipeline = FluxPipeline(
        # As FLUX.1-dev has it: the fixed shift is not used.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=tiny_autoencoder(seed, scaling_factor=0.3611, shift_factor=0.1159, quant_convs=False),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=random_weights(_tiny_transformer, seed),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _tiny_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
