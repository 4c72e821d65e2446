"""Stable Diffusion XL (Podell et al. 2023): two text encoders, and the image size told to the UNet."""

from medgen_models.architectures.autoencoders import SDXL_VAE
from medgen_models.architectures.specification import (
    Architecture,
    CallInputs,
    InputSize,
    Part,
    gaussian_latents,
)
from medgen_models.architectures.text_encoders import CLIP_BIG_G_TEXT_2, CLIP_L

DENOISER = Part(
    model_class="UNet2DConditionModel",
    config={
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),  # numbers of heads, in spite of its name
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    hub_folder="unet",
)


def _inputs(size: InputSize) -> CallInputs:
    return {
        "denoiser": {
            "sample": size.latents(4),
            "timestep": size.timesteps(),
            "encoder_hidden_states": size.floats(size.num_tokens, 2048),
            "added_cond_kwargs": {"text_embeds": size.floats(1280), "time_ids": size.floats(6)},
        },
        "text_encoder": {"input_ids": size.token_ids()},
        "text_encoder_2": {"input_ids": size.token_ids()},
        "vae.encode": {"x": size.latents(3, 1)},
        "vae.decode": {"z": size.latents(4)},
    }


SDXL = Architecture(
    hub_name="stabilityai/stable-diffusion-xl-base-1.0",
    parts={
        "denoiser": DENOISER,
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_BIG_G_TEXT_2,
        "vae": SDXL_VAE,
    },
    image_size=1024,
    num_tokens=77,
    latent_shapes=gaussian_latents(4),
    prompt_shapes=lambda num_tokens: ((num_tokens, 2048), (1280,)),
    inputs=_inputs,
    fixed_tokens=True,
)
