"""From 8-bit pixels to what a network takes: one named resize, perhaps a centre crop, one normalisation.

The resize is part of a score: other kernels move a Frechet distance by as much as a better model does. Its
name is therefore written beside every score, and scores with unequal names are not compared.

Shapes: B images, H x W their size, S the size the network takes, E the shorter side before a crop.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Resize = Literal[
    "bicubic-antialias",  # clean-fid's "clean" mode
    "bilinear-antialias",  # torchmetrics from 1.8, antialias=True
    "bilinear-tf1",  # the graph of 2015, torch-fidelity, torchmetrics before 1.8 or with antialias=False
    "bilinear",  # pytorch-fid: half-pixel centres, no widening when shrinking
    "nearest-pillow",  # 8-bit in, 8-bit out, as the processors of Hugging Face models do
    "lanczos-pillow",
    "bilinear-pillow",
    "bicubic-pillow",
    "box-pillow",
    "hamming-pillow",
]
RESIZES: tuple[Resize, ...] = get_args(Resize)


def resize_images(images: Tensor, size: int | tuple[int, int], resize: Resize) -> Tensor:
    """Resize, whatever the aspect ratio.

    "bicubic-antialias" is the kernel of Pillow's float path (a = -0.5, widened when shrinking; "clean"
    resizing in Parmar et al. 2022), without its rounding to 8 bits. "bilinear-tf1" samples the source at
    i * in / out, without half-pixel centres, as TensorFlow 1 did. Names in "-pillow" round to 8 bits.

    Args:
        images: [B, 3, H, W] uint8.
        size: Side S of the result or its (height, width), pixels.
        resize: Name of the kernel.

    Returns:
        [B, 3, S, S] float32 in 0..255.

    Raises:
        ValueError: If the kernel is unknown.
    """
    height, width = (size, size) if isinstance(size, int) else size
    match resize:
        case "bicubic-antialias" | "bilinear-antialias":
            mode = resize.removesuffix("-antialias")
            resized = F.interpolate(
                images.float(), size=(height, width), mode=mode, antialias=True, align_corners=False
            )
            # A cubic kernel overshoots at edges; a picture cannot be brighter than white.
            return resized.clamp_(0, 255)
        case "bilinear":
            return F.interpolate(images.float(), size=(height, width), mode="bilinear", align_corners=False)
        case "bilinear-tf1":
            return _bilinear_tf1(images, height, width)
        case _ if resize in RESIZES:
            return _by_pillow(images, height, width, Image.Resampling[resize.split("-", 1)[0].upper()])
        case _:
            raise ValueError(f"no resize {resize!r}; expected one of {', '.join(RESIZES)}")


def _bilinear_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Interpolate along x, then y, in the order and precision of the TensorFlow 1 kernel."""
    left, right, across = _tf1_taps(images.shape[3], width, images.device)
    above, below, down = _tf1_taps(images.shape[2], height, images.device)
    if images.shape[2] > 2 * height:
        # Shrinking without antialias never looks at most rows.
        rows = torch.cat([above, below])
        images = images.index_select(2, rows)
        above = torch.arange(height, device=images.device)
        below = above + height
    at_left, at_right = (images.index_select(3, columns).float() for columns in (left, right))
    along_x = at_left + (at_right - at_left) * across
    at_top, at_bottom = along_x.index_select(2, above), along_x.index_select(2, below)
    return at_top + (at_bottom - at_top) * down[:, None]


def _tf1_taps(size_in: int, size_out: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for every output place the two source places and the weight of the second, each [size_out]."""
    # float32 throughout, as the kernel had it: in float64 some places fall on the other side of a pixel.
    scale = torch.tensor(size_in / size_out, dtype=torch.float32, device=device)
    places = torch.arange(size_out, dtype=torch.float32, device=device) * scale
    first = places.long().clamp_max(size_in - 1)
    return first, (first + 1).clamp_max(size_in - 1), places - first.float()


def _by_pillow(images: Tensor, height: int, width: int, kernel: Image.Resampling) -> Tensor:
    resized = [
        np.array(Image.fromarray(image).resize((width, height), kernel))
        for image in images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device).float()


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `size` x `size`, then (value - mean) / std with values in 0..255.

    With `shortest_edge`, the shorter side is resized to that, keeping the aspect ratio, and the centre of
    `size` x `size` is cut out.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize = "bicubic-antialias"
    shortest_edge: int | None = None

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"no resize {self.resize!r}; expected one of {', '.join(RESIZES)}")
        if self.shortest_edge is not None and self.shortest_edge < self.size:
            raise ValueError(
                f"shortest_edge must be at least the crop of {self.size} pixels, got {self.shortest_edge}"
            )

    @property
    def name(self) -> str:
        """Everything that defines it, in one line, e.g. "bicubic-antialias 224x224, (value - 127) / 128"."""
        mean, std = _shortest(self.mean), _shortest(self.std)
        edge = "" if self.shortest_edge is None else f" shortest edge {self.shortest_edge}, centre"
        return f"{self.resize}{edge} {self.size}x{self.size}, (value - {mean}) / {std}"

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
        resized = self._resized(images)
        mean, std = (resized.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (resized - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        if self.shortest_edge is None:
            return resize_images(images, self.size, self.resize)
        height, width = images.shape[2:]
        # The longer side is cut to whole pixels, never rounded up.
        longer = max(height, width) * self.shortest_edge // min(height, width)
        height, width = (self.shortest_edge, longer) if height <= width else (longer, self.shortest_edge)
        resized = resize_images(images, (height, width), self.resize)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return resized[:, :, top : top + self.size, left : left + self.size]


def _shortest(values: tuple[float, float, float]) -> str:
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"
