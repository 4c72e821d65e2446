"""Colour of images as a feature space, so that it is measured in the one pass that decodes them, and cached.

A feature is what `ColourStatistics` holds of one image: three channel means, three deviations, the histogram of
saturation over 256 bins. No network is involved, and nothing is resized.

Shapes: B images of one size, N images of a set, D = 3 + 3 + 256.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgen_metrics.colour import NUM_BINS, ColourStatistics, colour_statistics
from medgen_metrics.feature_files import FeatureSet
from medgen_metrics.preprocessing import Preprocessing

COLOUR_ID = "colour-statistics"
_DIM = 3 + 3 + NUM_BINS


@dataclass(frozen=True)
class FullSizeColour(Preprocessing):
    """Measures images at their own size, in place of bringing them to the size of a network."""

    size: int = 1
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)

    @property
    def name(self) -> str:
        """Name of the pixels that are measured."""
        return "full size, value / 255"

    def __call__(self, images: Tensor) -> Tensor:
        """Measure images, [B, 3, H, W] uint8, as [B, D] float32."""
        found = colour_statistics(images)
        return torch.from_numpy(np.hstack([found.means, found.deviations, found.saturations])).float()


class ColourExtractor:
    """`FeatureExtractor` whose features are the colour statistics of an image."""

    id = COLOUR_ID
    # No weights: the name says everything.
    sha256 = hashlib.sha256(COLOUR_ID.encode()).hexdigest()
    dim = _DIM
    comparable = True
    revision = None
    cautions: tuple[str, ...] = ()
    preprocessing: Preprocessing = FullSizeColour()

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, 262] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images))

    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features as they are, [B, 262] float32."""
        return pixel_values.cpu()


def statistics_of_features(feature_set: FeatureSet) -> ColourStatistics:
    """Return the colour of a set from its features.

    Raises:
        ValueError: If the features are those of another extractor.
    """
    if feature_set.space.extractor_id != COLOUR_ID or feature_set.space.dim != _DIM:
        raise ValueError(f"expected features of {COLOUR_ID}, got those of {feature_set.space.extractor_id}")
    means, deviations, saturations = np.split(feature_set.features.double().numpy(), [3, 6], axis=1)
    return ColourStatistics(means, deviations, saturations)
