"""Stable Diffusion 1.4 and 1.5 (Rombach et al. 2022): one architecture, two sets of weights.

The safety checker of the repositories takes no part in training and is left out.
"""

from dataclasses import replace

from medgen_models.architectures.autoencoders import SD_VAE
from medgen_models.architectures.specification import (
    Architecture,
    CallInputs,
    InputSize,
    Part,
    gaussian_latents,
)
from medgen_models.architectures.text_encoders import CLIP_L

DENOISER = Part(
    model_class="UNet2DConditionModel",
    config={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,  # the number of heads, in spite of its name
    },
    hub_folder="unet",
)


def _inputs(size: InputSize) -> CallInputs:
    return {
        "denoiser": {
            "sample": size.latents(4),
            "timestep": size.timesteps(),
            "encoder_hidden_states": size.floats(size.num_tokens, 768),
        },
        "text_encoder": {"input_ids": size.token_ids()},
        "vae.encode": {"x": size.latents(3, 1)},
        "vae.decode": {"z": size.latents(4)},
    }


SD14 = Architecture(
    hub_name="CompVis/stable-diffusion-v1-4",
    parts={"denoiser": DENOISER, "text_encoder": CLIP_L, "vae": SD_VAE},
    image_size=512,
    num_tokens=77,
    latent_shapes=gaussian_latents(4),
    prompt_shapes=lambda num_tokens: ((num_tokens, 768),),
    inputs=_inputs,
    fixed_tokens=True,
)
SD15 = replace(SD14, hub_name="stable-diffusion-v1-5/stable-diffusion-v1-5")
