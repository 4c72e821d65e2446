"""Brightness and contrast jitter of pixel values.

Shapes: B batch, H x W image size.
"""

import torch
from torch import Tensor


def jitter_colours(
    pixel_values: Tensor, *, brightness: float, contrast: float, generator: torch.Generator
) -> Tensor:
    """Scale the brightness, then the contrast, of each image by a random factor of its own.

    Factors are uniform in [1 - strength, 1 + strength], as MMCP's colour jitter; brightness scales the levels
    above black, contrast those around the image's mean grey.

    Args:
        pixel_values: Images, [B, 3, H, W] in [-1, 1].
        brightness: Strength of the brightness jitter, in [0, 1).
        contrast: Strength of the contrast jitter, in [0, 1).
        generator: Source of the factors, on the CPU.

    Returns:
        Images, [B, 3, H, W], clamped to [-1, 1].
    """
    if brightness == 0 and contrast == 0:
        return pixel_values
    factors = torch.rand(2, len(pixel_values), 1, 1, 1, generator=generator).to(pixel_values) * 2 - 1
    levels = (pixel_values + 1) / 2
    levels = (levels * (1 + brightness * factors[0])).clamp(0, 1)
    grey_weights = torch.tensor([0.299, 0.587, 0.114]).to(levels).view(1, 3, 1, 1)  # ITU-R BT.601
    grey = (levels * grey_weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    levels = (grey + (levels - grey) * (1 + contrast * factors[1])).clamp(0, 1)
    return levels * 2 - 1
