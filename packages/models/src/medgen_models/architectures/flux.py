"""FLUX.1-dev (Black Forest Labs 2024): a flow-matching transformer that reads T5-XXL and the pooled CLIP-L."""

from medgen_models.architectures.autoencoders import FLUX_VAE
from medgen_models.architectures.specification import (
    Architecture,
    CallInputs,
    InputSize,
    Part,
    gaussian_latents,
)
from medgen_models.architectures.text_encoders import CLIP_L, T5_XXL_2

DENOISER = Part(
    model_class="FluxTransformer2DModel",
    config={
        "patch_size": 1,
        "in_channels": 64,  # 2 x 2 latents of 16 channels, packed
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": (16, 56, 56),
    },
    hub_folder="transformer",
)


def _inputs(size: InputSize) -> CallInputs:
    num_patches = (size.image_size // 16) ** 2
    return {
        "denoiser": {
            "hidden_states": size.floats(num_patches, 64),
            "encoder_hidden_states": size.floats(size.num_tokens, 4096),
            "pooled_projections": size.floats(768),
            "timestep": size.floats(),
            "img_ids": size.floats(num_patches, 3)[0],
            "txt_ids": size.floats(size.num_tokens, 3)[0],
            "guidance": size.floats(),
        },
        "text_encoder": {"input_ids": size.token_ids(77)},
        "text_encoder_2": {"input_ids": size.token_ids()},
        "vae.encode": {"x": size.latents(3, 1)},
        "vae.decode": {"z": size.latents(16)},
    }


FLUX = Architecture(
    hub_name="black-forest-labs/FLUX.1-dev",
    parts={"denoiser": DENOISER, "text_encoder": CLIP_L, "text_encoder_2": T5_XXL_2, "vae": FLUX_VAE},
    image_size=1024,
    num_tokens=512,
    latent_shapes=gaussian_latents(16),
    prompt_shapes=lambda num_tokens: ((num_tokens, 4096), (768,)),
    inputs=_inputs,
)
