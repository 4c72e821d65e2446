"""The nearest training image of every sample, over several views of the sample.

Shapes: N samples, T training images, D feature width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.neighbours import nearest_neighbours

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NearestTrain:
    """What lies nearest to each sample in one feature space."""

    distances: Floats  # [N] over all views
    indices: Ints  # [N] rows of the training set
    views: tuple[str, ...]  # [N] which view came nearest
    ratios: Floats  # [N] nearest / second nearest training image in that view; 1 where both are at 0
    plain_distances: Floats  # [N] of the sample as it is
    plain_indices: Ints  # [N]

    def __len__(self) -> int:
        return len(self.distances)


def nearest_over_views(
    views: Iterable[tuple[str, Tensor]], train: Tensor, train_crops: Sequence[tuple[str, Tensor]] = ()
) -> NearestTrain:
    """Find the nearest training image of every sample under its nearest view, exactly (float64).

    Args:
        views: (name, features [N, D]) for each view, "identity" among them; taken one at a time, so a generator
            keeps one view in memory. The first of equally near views wins.
        train: Features of the training images, [T >= 2, D].
        train_crops: (name, features [T, D]) of crops of the training images; samples that are not cropped
            themselves are compared with these too.

    Raises:
        ValueError: If "identity" is missing, views differ in length, or features do not fit.
    """
    if len(train) < 2:
        raise ValueError(f"expected at least 2 training images, got {len(train)}")
    found: NearestTrain | None = None
    plain: tuple[Floats, Ints] | None = None
    for name, features in views:
        here = _nearest(name, features, train)
        if name == "identity":
            plain = here.distances, here.indices
        found = here if found is None else _nearer(found, here)
        for crop_name, cropped in () if name.startswith("crop-") else train_crops:
            found = _nearer(found, _nearest(f"{name}, training image {crop_name}", features, cropped))
    if found is None or plain is None:
        raise ValueError("views must hold 'identity': the sample as it is")
    return NearestTrain(found.distances, found.indices, found.views, found.ratios, *plain)


def count_authentic(train: Tensor, nearest: NearestTrain) -> int:
    """Count authentic samples: farther from their nearest training image than that is from its own neighbour.

    authentic(j) = d(x_j, t) > min over t' != t of d(t, t'),  t the nearest training image   (Alaa et al. 2022)

    A tie is not authentic, and views other than the sample itself are left out, as elsewhere in the field.

    Args:
        train: Features of the training images, [T, D].
        nearest: Neighbours of the samples in `train`.
    """
    used, where = np.unique(nearest.plain_indices, return_inverse=True)
    # Each image finds itself at distance 0 first, so its nearest other image is the second, copies included.
    own_distances, _ = nearest_neighbours(train[torch.from_numpy(used)], train, 2)
    return int((nearest.plain_distances > own_distances[:, 1].numpy()[where]).sum())


def _nearest(name: str, features: Tensor, train: Tensor) -> NearestTrain:
    distances, neighbours = (part.numpy() for part in nearest_neighbours(features, train, 2))
    nearest, second, indices = distances[:, 0], distances[:, 1], neighbours[:, 0]
    ratios = np.divide(nearest, second, out=np.ones_like(nearest), where=second > 0)
    return NearestTrain(nearest, indices, (name,) * len(nearest), ratios, nearest, indices)


def _nearer(first: NearestTrain, second: NearestTrain) -> NearestTrain:
    if len(first) != len(second):
        raise ValueError(f"every view must hold the same samples, got {len(first)} and {len(second)} of them")
    closer = second.distances < first.distances
    views = tuple(
        new if take else old for take, new, old in zip(closer, second.views, first.views, strict=True)
    )
    distances = np.where(closer, second.distances, first.distances)
    indices = np.where(closer, second.indices, first.indices)
    ratios = np.where(closer, second.ratios, first.ratios)
    return NearestTrain(distances, indices, views, ratios, distances, indices)
