"""The nearest training image of every synthetic image, by pixels: does the model copy?

Letters: Q queries, G gallery images, D = 3 * 16 * 16 features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from medgen_data.image_folder import ImageDataset
from medgen_data.images import decode_image, fit_square
from medgen_data.records import ImageRecord

Features = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

FEATURE_SIDE = 16  # small enough to look past noise, large enough to see where a finding lies


@dataclass(frozen=True)
class NeighbourPair:
    """A synthetic image and the training image nearest to it."""

    record_id: str
    neighbour_id: str
    distance: float  # root mean square difference in grey levels, 0..255


@dataclass(frozen=True)
class NeighbourSheet:
    """All pairs, nearest first, with the yardstick of real images that the model never saw."""

    pairs: tuple[NeighbourPair, ...]
    held_out_distances: tuple[float, ...]  # nearest training image of each held-out real one, ascending
    num_training_images: int

    @property
    def median(self) -> float:
        """Median distance of the synthetic images to their nearest training image."""
        return float(np.median([pair.distance for pair in self.pairs]))

    @property
    def held_out_median(self) -> float | None:
        """The same median for held-out real images; None if the data set holds none."""
        return float(np.median(self.held_out_distances)) if self.held_out_distances else None

    @property
    def num_closer_than_held_out(self) -> int | None:
        """How many synthetic images lie nearer to a training image than any held-out real image does."""
        if not self.held_out_distances:
            return None
        return sum(pair.distance < self.held_out_distances[0] for pair in self.pairs)


def pixel_features(dataset: ImageDataset, records: Sequence[ImageRecord]) -> Features:
    """Return images as 16 x 16 averaged colours, [N, D] float32 in [0, 255]."""
    rows = [
        fit_square(decode_image(dataset.image_file(record)), FEATURE_SIDE).reshape(-1) for record in records
    ]
    return np.stack(rows).astype(np.float32)


def nearest(queries: Features, gallery: Features) -> tuple[Distances, Indices]:
    """Find the nearest gallery row of every query by root mean square difference.

    Args:
        queries: Features, [Q, D].
        gallery: Features, [G >= 1, D].

    Returns:
        Distances [Q] and gallery indices [Q]; of equally near rows the first.
    """
    queries64, gallery64 = queries.astype(np.float64), gallery.astype(np.float64)
    # |q - g|^2 = |q|^2 - 2 q.g + |g|^2 finds the row; the distance itself is taken from the difference,
    # because the expansion loses the digits that tell a copy (0) from a near copy.
    closeness = np.square(gallery64).sum(axis=1) - 2 * queries64 @ gallery64.T  # [Q, G]
    indices = closeness.argmin(axis=1)
    return np.sqrt(np.square(queries64 - gallery64[indices]).mean(axis=1)), indices


def find_neighbours(synthetic: ImageDataset, real: ImageDataset) -> NeighbourSheet:
    """Pair every synthetic image with its nearest training image.

    Training images are the records of split `train`; without splits, all real images.

    Args:
        synthetic: Generated images.
        real: The data set the model was trained on.

    Returns:
        The sheet, nearest pair first.
    """
    training = [record for record in real.records if record.split == "train"] or list(real.records)
    held_out = [record for record in real.records if record.split == "test"]
    gallery = pixel_features(real, training)
    distances, indices = nearest(pixel_features(synthetic, synthetic.records), gallery)
    pairs = [
        NeighbourPair(record.record_id, training[index].record_id, float(distance))
        for record, index, distance in zip(synthetic.records, indices, distances, strict=True)
    ]
    held_out_distances: list[float] = []
    if held_out:
        held_out_distances = nearest(pixel_features(real, held_out), gallery)[0].tolist()
    return NeighbourSheet(
        pairs=tuple(sorted(pairs, key=lambda pair: (pair.distance, pair.record_id))),
        held_out_distances=tuple(sorted(held_out_distances)),
        num_training_images=len(training),
    )
