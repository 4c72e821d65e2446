"""Jitter of brightness, contrast and saturation of pixel values.

Shapes: B batch, H x W image size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ColourJitter:
    """Scales brightness, then contrast, then saturation of each image by random factors of its own.

    Factors are uniform in [1 - strength, 1 + strength], as MMCP's colour jitter; brightness scales the levels
    above black, contrast those around the image's mean grey, saturation those around each pixel's grey.

    Attributes:
        brightness: Strength, in [0, 1).
        contrast: Strength, in [0, 1).
        saturation: Strength, in [0, 1).
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __call__(self, pixel_values: Tensor, generator: torch.Generator) -> Tensor:
        """Return jittered images, [B, 3, H, W], clamped to [-1, 1]; the very same ones if every strength is 0.

        Args:
            pixel_values: Images, [B, 3, H, W] in [-1, 1].
            generator: Source of the factors, on the CPU.
        """
        if self == NO_JITTER:
            return pixel_values

        def factors(strength: float) -> Tensor:
            drawn = torch.rand(len(pixel_values), 1, 1, 1, generator=generator)
            return (1 + strength * (2 * drawn - 1)).to(pixel_values)

        levels = (pixel_values + 1) / 2
        levels = (levels * factors(self.brightness)).clamp(0, 1)
        mean_grey = _grey(levels).mean(dim=(2, 3), keepdim=True)
        levels = (mean_grey + (levels - mean_grey) * factors(self.contrast)).clamp(0, 1)
        if self.saturation:  # without it no factor is drawn, and the stream goes on as it always did
            grey = _grey(levels)
            levels = (grey + (levels - grey) * factors(self.saturation)).clamp(0, 1)
        return levels * 2 - 1


NO_JITTER = ColourJitter()


def _grey(levels: Tensor) -> Tensor:
    """Return the grey level of every pixel [B, 1, H, W]."""
    weights = torch.tensor(_GREY_WEIGHTS).to(levels).view(1, 3, 1, 1)
    return (levels * weights).sum(dim=1, keepdim=True)
