"""From 8-bit pixels to what a network takes: one named resize, one normalisation, no crop.

The resize is part of a score: other kernels move a Frechet distance by as much as a better model does. Its
name is therefore written beside every score, and scores with unequal names are not compared.

Shapes: B images, H x W their size, S the size the network takes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Resize = Literal["bicubic-antialias", "bilinear-antialias"]


def resize_images(images: Tensor, size: int, resize: Resize) -> Tensor:
    """Resize to a square, whatever the aspect ratio.

    "bicubic-antialias" is the kernel of Pillow's float path (a = -0.5, widened when shrinking; "clean"
    resizing in Parmar et al. 2022), without its rounding to 8 bits.

    Args:
        images: [B, 3, H, W] uint8.
        size: Side S of the result, pixels.
        resize: Name of the kernel.

    Returns:
        [B, 3, S, S] float32 in 0..255.
    """
    mode = {"bicubic-antialias": "bicubic", "bilinear-antialias": "bilinear"}[resize]
    resized = F.interpolate(images.float(), size=(size, size), mode=mode, antialias=True, align_corners=False)
    # A cubic kernel overshoots at edges; a picture cannot be brighter than white.
    return resized.clamp_(0, 255)


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `size` x `size`, then (value - mean) / std with values in 0..255."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize = "bicubic-antialias"

    @property
    def name(self) -> str:
        """Everything that defines it, in one line, e.g. "bicubic-antialias 224x224, (value - 127) / 128"."""
        mean, std = _shortest(self.mean), _shortest(self.std)
        return f"{self.resize} {self.size}x{self.size}, (value - {mean}) / {std}"

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images of one size.

        Args:
            images: [B, 3, H, W] uint8.

        Returns:
            [B, 3, S, S] float32, normalised.

        Raises:
            ValueError: If `images` is not [B, 3, H, W] uint8.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"images must be [B, 3, H, W] uint8, got {tuple(images.shape)} {images.dtype}")
        resized = resize_images(images, self.size, self.resize)
        mean, std = (resized.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (resized - mean) / std


def _shortest(values: tuple[float, float, float]) -> str:
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"
