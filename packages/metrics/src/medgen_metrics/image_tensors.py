"""Images in memory: tensors and arrays of any stated range become [B, 3, H, W] uint8.

Shapes: B images of one size H x W.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def as_uint8_images(
    images: Tensor | NDArray[np.generic] | Sequence[NDArray[np.generic]],
    *,
    value_range: tuple[float, float] | None = None,
    sixteen_bit_range: tuple[int, int] | None = None,
) -> Tensor:
    """Bring images that are in memory into the one shape extractors take.

    Args:
        images: Tensor [B, 3, H, W], or array(s) with the channels last: [B, H, W, 3] or a list of [H, W, 3]
            of one size; one channel is grey. uint8, or float or uint16 with its range stated: whether floats
            reach to 1 or to 255 would be a guess.
        value_range: The float values that become 0 and 255, e.g. (0, 1) or (-1, 1). Values somewhat outside,
            as decoders of latents give them, are clamped; half the range beyond is another range, and refused.
        sixteen_bit_range: The uint16 values that become 0 and 255; none may lie outside.

    Returns:
        The images, [B, 3, H, W] uint8; new memory unless they were that already.

    Raises:
        ValueError: If type, shape or range is another, or a value is not finite.
    """
    if isinstance(images, Tensor):
        batch = images
    else:
        array = images if isinstance(images, np.ndarray) else np.stack(list(images))
        if array.ndim != 4 or array.shape[-1] not in {1, 3}:
            raise ValueError(f"image arrays must be [B, H, W, 3] or [B, H, W, 1], got {array.shape}")
        batch = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
    if batch.ndim != 4 or batch.shape[1] not in {1, 3} or 0 in batch.shape:
        raise ValueError(f"image tensors must be [B, 3, H, W] or [B, 1, H, W], got {tuple(batch.shape)}")
    if batch.is_floating_point():
        batch = _from_floats(batch, value_range)
    elif value_range is not None:
        raise ValueError(f"value_range is for float images, got {batch.dtype}; leave it out")
    elif batch.dtype == torch.uint16:
        batch = _from_uint16(batch, sixteen_bit_range)
    elif batch.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, float or uint16, got {batch.dtype}; convert them first")
    return batch if batch.shape[1] == 3 else batch.expand(-1, 3, -1, -1)


def _from_floats(batch: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    if value_range is None:
        raise ValueError(
            f"images must be uint8 in 0..255, got {batch.dtype}; state the range of floats, e.g. "
            "value_range=(0, 1) or (-1, 1)"
        )
    lowest, highest = value_range
    if not lowest < highest:
        raise ValueError(f"value_range must be (lowest, highest), got {value_range}")
    values = batch.detach().double()
    if not torch.isfinite(values).all():
        raise ValueError("image tensors hold NaN or infinity; generate them again")
    least, most, slack = float(values.min()), float(values.max()), (highest - lowest) / 2
    if least <= lowest - slack or most >= highest + slack:
        raise ValueError(
            f"image values reach from {least:g} to {most:g}, far outside value_range {lowest:g}..{highest:g}; "
            "state the range they have"
        )
    return ((values - lowest) * (255.0 / (highest - lowest))).round().clamp(0, 255).to(torch.uint8)


def _from_uint16(batch: Tensor, sixteen_bit_range: tuple[int, int] | None) -> Tensor:
    if sixteen_bit_range is None:
        raise ValueError("uint16 images need sixteen_bit_range, the values that become 0 and 255")
    lowest, highest = sixteen_bit_range
    if not 0 <= lowest < highest:
        raise ValueError(f"sixteen_bit_range must be 0 <= lowest < highest, got {sixteen_bit_range}")
    values = batch.to(torch.int64)
    least, most = int(values.min()), int(values.max())
    if least < lowest or most > highest:
        raise ValueError(
            f"image values {least}..{most} lie outside sixteen_bit_range {lowest}..{highest}; "
            "give a range that holds all images"
        )
    return ((values - lowest).double() * (255.0 / (highest - lowest))).round().to(torch.uint8)
