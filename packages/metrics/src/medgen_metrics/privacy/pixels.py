"""Downscaled pixels as a feature space: sees copies that a network has learnt to overlook, and needs no weights."""

import hashlib

from torch import Tensor

from medgen_metrics.preprocessing import Preprocessing


class PixelExtractor:
    """`FeatureExtractor` whose features are the pixels of a small version of the image.

    Scaled so that the distance of two images is their root-mean-square difference, 0 (equal) to 1 (black, white).
    """

    comparable = True
    revision = None
    cautions: tuple[str, ...] = ()

    def __init__(self, size: int = 8) -> None:
        """Choose the resolution.

        Args:
            size: Side of the small version, 1 to 256; at 8, JPEG artefacts and small shifts are averaged away.

        Raises:
            ValueError: If the size is out of range.
        """
        if not 1 <= size <= 256:
            raise ValueError(f"size must be 1 to 256 pixels, got {size}")
        self.id = f"pixels:{size}"
        self.dim = 3 * size * size
        self.preprocessing = Preprocessing(
            size=size, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), resize="bilinear-antialias"
        )
        # No weights: the name says everything.
        self.sha256 = hashlib.sha256(self.id.encode()).hexdigest()

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, 3 size^2] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images))

    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, 3 size^2] float32 on the CPU, of preprocessed images, [B, 3, size, size]."""
        return pixel_values.flatten(1).cpu() / self.dim**0.5
