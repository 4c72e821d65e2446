"""A miniature MSDM of 16 px."""

import torch

from medgen_models.diffusion import Diffusion
from medgen_models.families.msdm import MsdmModel, new_msdm
from medgen_models.msdm.presets import MsdmPreset
from medgen_models.tiny.text_encoders import tiny_prompt_encoder

TINY_MSDM = MsdmPreset(
    image_size=16,
    autoencoder_channels=(8, 16, 16),
    latent_channels=4,
    autoencoder_groups=4,
    unet_channels=(16, 32),
    blocks_per_level=1,
    embed_dim=32,
    num_heads=2,
    unet_groups=4,
    dropout=0.0,
    time_dim=16,
    max_tokens=16,
    diffusion=Diffusion(prediction_type="v"),
)


def tiny_msdm(seed: int = 0, *, preset: MsdmPreset = TINY_MSDM) -> MsdmModel:
    """Return an MSDM of 16 px with random weights, its zero-initialised ends made random too.

    As it is built, an MSDM predicts exactly zero; a test wants an output that depends on every weight.
    """
    model = new_msdm(preset, tiny_prompt_encoder(seed, max_tokens=preset.max_tokens), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (model.vae, model.denoiser):
            for parameter in module.parameters():
                if not parameter.any():
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
