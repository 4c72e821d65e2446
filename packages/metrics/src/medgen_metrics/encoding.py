"""One network with its cache of features, and the images that wait until a batch is full.

Shapes: N images, S the size a network takes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from medgen_metrics.feature_files import FeatureCache, FeatureSet, feature_space
from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.preprocessing import Preprocessing


class Encoder:
    """One network with its cache, and the images that wait for their batch to fill."""

    def __init__(self, extractor: FeatureExtractor, cache: FeatureCache, batch_size: int) -> None:
        self.extractor = extractor
        self._cache = cache
        self._batch_size = batch_size
        self._waiting: dict[str, Tensor] = {}

    def lacks(self, sha256: str) -> bool:
        """Whether the feature of this image is neither stored nor about to be."""
        return sha256 not in self._cache and sha256 not in self._waiting

    def push(self, sha256: str, prepared: Mapping[Preprocessing, Tensor]) -> int:
        """Take an image if it is lacking; returns how many features this finished."""
        if not self.lacks(sha256):
            return 0
        self._waiting[sha256] = prepared[self.extractor.preprocessing]
        return self.finish() if len(self._waiting) == self._batch_size else 0

    def finish(self) -> int:
        """Encode what waits and store it; returns how many features this finished."""
        sha256s = list(self._waiting)
        if sha256s:
            features = self.extractor.from_pixel_values(torch.stack(list(self._waiting.values())))
            self._cache.add(sha256s, features)
            self._waiting.clear()
        return len(sha256s)

    def gather(self, sha256s: Sequence[str], record_ids: tuple[str, ...]) -> FeatureSet:
        """Return stored features under these names."""
        return FeatureSet(self._cache.gather(sha256s), record_ids, self._cache.space)


def open_encoders(
    extractors: Sequence[FeatureExtractor], features_dir: Path, batch_size: int, decoding: str
) -> list[Encoder]:
    """Open the cache of every network.

    Args:
        extractors: The networks, with unequal ids.
        features_dir: Where features are cached, a folder for each feature space.
        batch_size: Images per forward pass.
        decoding: Name of what happens before a network's own preprocessing, e.g. "16-bit 0..4095"; or empty.

    Raises:
        ValueError: If there are no networks, two of one id, or no images in a batch.
    """
    ids = [extractor.id for extractor in extractors]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"expected at least one extractor and unequal ids, got {ids}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return [
        Encoder(
            extractor, FeatureCache(features_dir, feature_space(extractor, decoding=decoding)), batch_size
        )
        for extractor in extractors
    ]


def prepare(pixels: Tensor, encoders: Sequence[Encoder]) -> dict[Preprocessing, Tensor]:
    """Return the pixel values, [3, S, S], of one image, [3, H, W], for each distinct preprocessing."""
    # One by one: the images of a set need not have one size before this.
    wanted = {encoder.extractor.preprocessing for encoder in encoders}
    return {preprocessing: preprocessing(pixels[None])[0] for preprocessing in wanted}
