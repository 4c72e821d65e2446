"""Mean and spread of the colour channels of images, and the loss between two sets of them.

Shapes: N images or B batch, H x W or S x S image size. Colours are in [-1, 1], in the order red, green, blue.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class ColourStatistics:
    """The colours of images in six numbers each."""

    mean: Tensor  # [B, 3]
    std: Tensor  # [B, 3]

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: Tensor | list[int] | slice) -> "ColourStatistics":
        return ColourStatistics(self.mean[rows], self.std[rows])

    def to(self, like: Tensor) -> "ColourStatistics":
        """Return the same statistics in the dtype and place of a tensor."""
        return ColourStatistics(self.mean.to(like), self.std.to(like))


def colour_statistics(pixel_values: Tensor, *, unbiased: bool = True) -> ColourStatistics:
    """Return the mean and the standard deviation of every channel of every image.

    Args:
        pixel_values: Images, [B, 3, H, W], any float dtype; half precision is widened to float32 first.
        unbiased: Divide the squares by H W - 1, in place of H W.

    Raises:
        ValueError: If these are not colour images of at least two pixels.
    """
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or pixel_values[0, 0].numel() < 2:
        raise ValueError(
            f"pixel_values must be [B, 3, H, W] with H W >= 2, got {tuple(pixel_values.shape)}; "
            "grey images are repeated to three channels first"
        )
    pixels = pixel_values.to(torch.promote_types(pixel_values.dtype, torch.float32)).flatten(2)
    return ColourStatistics(pixels.mean(dim=2), pixels.std(dim=2, correction=int(unbiased)))


def colour_loss(generated: ColourStatistics, target: ColourStatistics, reduction: Reduction) -> Tensor:
    """Return the squared distance of two sets of colour statistics for each image, [B].

    L = sum_c |mean_c(generated) - mean_c(target)|^2 + |std_c(generated) - std_c(target)|^2   (Med-Art, eq. 4)

    The authors' code takes the mean over the channels, a third of the sum: reduction `mean`.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if generated.mean.shape != target.mean.shape or generated.std.shape != target.std.shape:
        raise ValueError(
            f"colours of {len(generated)} generated images meet a target of {len(target)}; "
            "give one row of the colour table per prompt"
        )
    squares = (generated.mean - target.mean).square() + (generated.std - target.std).square()
    return squares.sum(dim=1) if reduction == "sum" else squares.mean(dim=1)


def colour_table(images: Tensor, *, unbiased: bool = True, batch_size: int = 64) -> ColourStatistics:
    """Return the colour statistics of a set of images as they will be compared, mean and std [N, 3] float32.

    Flips and shifts of whole pixels leave them as they are; jittered colours need `colour_statistics` anew.

    Args:
        images: Images, [N, 3, S, S] uint8.
        unbiased: As the loss will have it.
        batch_size: Images that are widened to floats at a time.

    Raises:
        ValueError: If the images are not bytes.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}; for pixel values use colour_statistics")
    parts = [
        colour_statistics(batch.double() / 127.5 - 1, unbiased=unbiased) for batch in images.split(batch_size)
    ]
    mean, std = torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])
    return ColourStatistics(mean.float(), std.float())
