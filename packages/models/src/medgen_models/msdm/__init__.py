"""MSDM: the compact latent diffusion model trained from scratch on medical images."""

from medgen_models.msdm.pipeline import MsdmPipeline
from medgen_models.msdm.presets import PRESETS, MsdmPreset
from medgen_models.msdm.unet import MsdmUNet
from medgen_models.msdm.vae import MsdmAutoencoder

__all__ = ["PRESETS", "MsdmAutoencoder", "MsdmPipeline", "MsdmPreset", "MsdmUNet"]
