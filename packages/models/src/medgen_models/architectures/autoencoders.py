"""The image autoencoders that several families share; all shrink an image by 8 along each side."""

from medgen_models.architectures.specification import Part

_KL = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}

# Stable Diffusion 1.x, and PixArt-alpha with its finer-tuned weights: one architecture.
SD_VAE = Part(
    model_class="AutoencoderKL",
    config=_KL | {"latent_channels": 4, "sample_size": 512, "scaling_factor": 0.18215},
    hub_folder="vae",
)
SDXL_VAE = Part(
    model_class="AutoencoderKL",
    config=_KL | {"latent_channels": 4, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    hub_folder="vae",
)
FLUX_VAE = Part(
    model_class="AutoencoderKL",
    config=_KL
    | {
        "latent_channels": 16,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    hub_folder="vae",
)

_MOVQ = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
    "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "norm_type": "spatial",
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 4,
    "sample_size": 32,
}

MOVQ_67M = Part(
    model_class="VQModel",
    config=_MOVQ | {"block_out_channels": (128, 256, 256, 512)},
    hub_folder="movq",
)
MOVQ_270M = Part(
    model_class="VQModel",
    config=_MOVQ | {"block_out_channels": (256, 512, 512, 1024)},
    hub_folder="movq",
)
