"""PixArt-alpha at 512 px (Chen et al. 2023): a diffusion transformer that reads T5-XXL."""

from medgen_models.architectures.autoencoders import SD_VAE
from medgen_models.architectures.specification import (
    Architecture,
    CallInputs,
    InputSize,
    Part,
    gaussian_latents,
)
from medgen_models.architectures.text_encoders import T5_XXL

DENOISER = Part(
    model_class="PixArtTransformer2DModel",
    config={
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "cross_attention_dim": 1152,
        "caption_channels": 4096,
        "sample_size": 64,
        "patch_size": 2,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "use_additional_conditions": False,  # image size and aspect ratio: only the 1024 px model is told
    },
    hub_folder="transformer",
)


def _inputs(size: InputSize) -> CallInputs:
    return {
        "denoiser": {
            "hidden_states": size.latents(4),
            "encoder_hidden_states": size.floats(size.num_tokens, 4096),
            "encoder_attention_mask": size.floats(size.num_tokens),
            "timestep": size.timesteps(),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        "text_encoder": {"input_ids": size.token_ids()},
        "vae.encode": {"x": size.latents(3, 1)},
        "vae.decode": {"z": size.latents(4)},
    }


PIXART = Architecture(
    hub_name="PixArt-alpha/PixArt-XL-2-512x512",
    parts={"denoiser": DENOISER, "text_encoder": T5_XXL, "vae": SD_VAE},
    image_size=512,
    num_tokens=120,
    latent_shapes=gaussian_latents(4),
    prompt_shapes=lambda num_tokens: ((num_tokens, 4096),),
    inputs=_inputs,
)
