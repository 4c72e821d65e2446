"""A class-conditional DiT in miniature, with random weights, for tests and dry runs."""

import torch
from diffusers import AutoencoderKL

from medgen_models.class_dit.presets import DitPreset
from medgen_models.families.dit import DitModel, new_dit

TINY_DIT = DitPreset(
    image_size=16,
    patch_size=2,
    width=32,
    depth=2,
    num_heads=2,
    downsampling=2,
    latent_channels=4,
    time_dim=16,
)


def tiny_autoencoder(seed: int = 0) -> AutoencoderKL:
    """Return a Stable Diffusion autoencoder of 4 x 8 x 8 latents at 16 px with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )


def tiny_dit(seed: int = 0, *, class_names: tuple[str, ...] = ("normal cecum", "polyps")) -> DitModel:
    """Return a DiT of 16 px with random weights, its zero-initialised ends made random too.

    As it is built, a DiT predicts exactly zero; a test wants an output that depends on every weight.
    """
    model = new_dit(TINY_DIT, tiny_autoencoder(seed), class_names, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
