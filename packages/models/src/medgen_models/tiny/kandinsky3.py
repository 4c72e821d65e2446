"""A miniature Kandinsky 3 of 16 px."""

from pathlib import Path

from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet

from medgen_models.families.kandinsky3 import IMAGE_SIZE_FIELD, MAX_TOKENS
from medgen_models.tiny.movq import tiny_movq
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_t5_encoder


def tiny_kandinsky3(seed: int = 0) -> Kandinsky3Pipeline:
    """Return a Kandinsky 3 with random weights, whose images are twice as large as its latents."""
    text_encoder, tokenizer = tiny_t5_encoder(seed, max_tokens=MAX_TOKENS)
    unet = random_weights(
        lambda: Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=16,
            groups=4,
            attention_head_dim=8,
            layers_per_block=2,
            block_out_channels=(16, 32),
            cross_attention_dim=16,
            encoder_hid_dim=text_encoder.config.d_model,
        ),
        seed,
    )
    pipeline = Kandinsky3Pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
        movq=tiny_movq(seed),
    )
    pipeline.register_to_config(**{IMAGE_SIZE_FIELD: 16})
    return pipeline


def write_tiny_kandinsky3(folder: Path, seed: int = 0) -> Path:
    """Write the miniature as the folder of a diffusers pipeline, and return it."""
    tiny_kandinsky3(seed).save_pretrained(folder, safe_serialization=True)
    return folder
