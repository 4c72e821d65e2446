"""Autoencoders of latent diffusion: pixels to moments and back, scaled as the denoiser wants them.

z = scaling_factor (z_raw - shift_factor)

Shapes: B batch, C latent channels, H x W latent size.
"""

from typing import Any

from torch import Tensor

from medgen_models.protocol import LatentMoments


def encode_with(vae: Any, pixel_values: Tensor) -> LatentMoments:
    """Encode images [B, 3, H, W] in [-1, 1] to scaled moments, float32."""
    posterior = vae.encode(pixel_values.to(vae.dtype)).latent_dist
    scale, shift = vae.config.scaling_factor, _shift(vae)
    return LatentMoments(scale * (posterior.mean.float() - shift), scale * posterior.std.float())


def decode_with(vae: Any, latents: Tensor) -> Tensor:
    """Decode scaled latents [B, C, H, W] to images [B, 3, H, W], not clamped, float32 or better."""
    raw = latents / vae.config.scaling_factor + _shift(vae)
    return vae.decode(raw.to(vae.dtype)).sample.to(latents.dtype)


def downsampling_of(vae: Any) -> int:
    """Return image size divided by latent size; every stage but the last halves the size."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def latent_size_for(vae: Any, image_size: int, *, patch_size: int = 1) -> int:
    """Return the side of the latents of an image of some side.

    Args:
        vae: Autoencoder.
        image_size: Side of the image in pixels.
        patch_size: Side of the patches that the denoiser cuts the latents into.

    Raises:
        ValueError: If the image cannot be divided so.
    """
    multiple = downsampling_of(vae) * patch_size
    if image_size < multiple or image_size % multiple:
        raise ValueError(f"image_size must be a multiple of {multiple} for this model, got {image_size}")
    return image_size // downsampling_of(vae)


def _shift(vae: Any) -> float:
    return vae.config.get("shift_factor") or 0.0
