"""MoVQ, the autoencoder of Kandinsky (Zheng et al. 2022): pixels to latents before quantisation, and back.

There is no distribution and no scale: the diffusion runs on what the encoder gives, and the decoder takes it
without looking it up in the codebook.

Shapes: B batch, C latent channels, H x W latent size.
"""

from dataclasses import replace
from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor

from medgen_models.model_source import ModelSource
from medgen_models.protocol import LatentMoments


def load_movq(source: ModelSource) -> Any:
    """Load the autoencoder of a Kandinsky folder in float32, whatever the dtype of the rest, as MMCP has it.

    Raises:
        MissingModelError: If it is not to be had.
        UnusableModelError: If its weights are pickled.
    """
    return replace(source, dtype=torch.float32).module(VQModel, "movq")


def encode_movq(movq: Any, pixel_values: Tensor) -> LatentMoments:
    """Encode images [B, 3, H, W] in [-1, 1] to latents with a standard deviation of zero, float32 or better."""
    latents = movq.encode(pixel_values.to(movq.dtype)).latents
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return LatentMoments(latents, torch.zeros_like(latents))


def decode_movq(movq: Any, latents: Tensor) -> Tensor:
    """Decode latents [B, C, H, W] to images [B, 3, H, W], nominally in [-1, 1], not clamped."""
    return movq.decode(latents.to(movq.dtype), force_not_quantize=True).sample.to(latents.dtype)
