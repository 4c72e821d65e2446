"""Exact nearest neighbours in feature space.

|a - b|^2 = |a|^2 + |b|^2 - 2 a.b is one matrix product, but near copies cancel in it: a copy can come out
farther than a stranger. So the product only proposes candidates, with a rounding bound; distances that matter
are computed again as |a - b| in float64, and a query whose candidates cannot be told apart from the rest is
searched exhaustively.

Shapes: Q queries, G gallery items, D feature width, K neighbours.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 1024
# Differences are formed for at most this many numbers at a time (4 MiB, which stays in the cache).
_EXACT_NUMBERS = 500_000
# Candidates beyond K that are scored exactly.
_SLACK = 8


def nearest_neighbours(
    queries: Tensor, gallery: Tensor, k: int = 1, *, exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """Find the K nearest gallery items of every query, by Euclidean distance.

    Args:
        queries: Features, [Q, D], left unchanged.
        gallery: Features, [G, D], left unchanged.
        k: Number of neighbours K.
        exclude_self: Both are the same rows, and row i is no neighbour of itself (by index; a copy is one).

    Returns:
        Distances, [Q, K] float64 ascending, and gallery indices, [Q, K].

    Raises:
        ValueError: If shapes do not fit, features are not finite, or the gallery is too small for K.
    """
    check_features(queries, gallery)
    if exclude_self and len(queries) != len(gallery):
        raise ValueError(
            f"exclude_self needs the same rows twice, got {len(queries)} queries, {len(gallery)} items"
        )
    num_others = len(gallery) - int(exclude_self)
    if not 1 <= k <= num_others:
        raise ValueError(f"k must be between 1 and {num_others} (the size of the gallery), got {k}")
    product = SquaredDistances(queries, gallery)
    all_distances = torch.empty(len(queries), k, dtype=torch.float64)
    all_indices = torch.empty(len(queries), k, dtype=torch.int64)
    num_candidates = min(k + _SLACK, num_others)
    for start in range(0, len(queries), _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, len(queries)))
        best, candidates, bounds = _candidates(product, rows, num_candidates, exclude_self=exclude_self)
        distances, order = product.exact(rows, candidates).sort(dim=1, stable=True)
        distances, indices = distances[:, :k], candidates.gather(1, order)[:, :k]
        # Certain if even the best item left out, after rounding, is no nearer than the K-th one kept.
        worst_kept = distances[:, -1].square()
        uncertain = (best[:, -1] - bounds < worst_kept) & (worst_kept > 0) & (num_candidates < num_others)
        for row in uncertain.nonzero()[:, 0].tolist():
            distances[row], indices[row] = _search_all(product, int(rows[row]), k, exclude_self=exclude_self)
        all_distances[rows], all_indices[rows] = distances, indices
    return all_distances, all_indices


def _candidates(
    product: "SquaredDistances", rows: Tensor, num_candidates: int, *, exclude_self: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return approximate squared distances, [R, C] ascending, their indices, and each row's rounding bound."""
    best = torch.full((len(rows), num_candidates), torch.inf, dtype=torch.float64)
    indices = torch.zeros(len(rows), num_candidates, dtype=torch.int64)
    for left in range(0, product.num_gallery, _BLOCK):
        columns = torch.arange(left, min(left + _BLOCK, product.num_gallery))
        squared = product.block(rows, columns)
        if exclude_self:
            squared[rows[:, None] == columns] = torch.inf
        values, places = squared.topk(min(num_candidates, len(columns)), dim=1, largest=False)
        best, kept = torch.cat([best, values], dim=1).topk(num_candidates, dim=1, largest=False, sorted=True)
        indices = torch.cat([indices, columns[places]], dim=1).gather(1, kept)
    return best, indices, product.rounding_bound(rows)


def _search_all(
    product: "SquaredDistances", row: int, k: int, *, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    everything = torch.arange(product.num_gallery)
    if exclude_self:
        everything = everything[everything != row]
    distances, order = product.exact(torch.tensor([row]), everything[None])[0].sort(stable=True)
    return distances[:k], everything[order[:k]]


class SquaredDistances:
    """Squared distances between two feature sets: fast by blocks with a bound, or exact for chosen pairs."""

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        self._queries, self._gallery = queries.detach().cpu(), gallery.detach().cpu()
        self.num_gallery = len(gallery)
        # A common offset would cost digits in every product and changes no distance.
        centre = self._gallery.double().mean(dim=0)
        self._working_dtype = torch.promote_types(queries.dtype, gallery.dtype)
        if self._working_dtype not in {torch.float32, torch.float64}:
            self._working_dtype = torch.float32
        self._a, self._a_norms = self._centred(self._queries, centre)
        self._b, self._b_norms = self._centred(self._gallery, centre)

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return squared distances of a block, [R, C] float64, each within `rounding_bound`."""
        products = (self._a[rows] @ self._b[columns].T).double()
        return (self._a_norms[rows, None] + self._b_norms[columns] - 2 * products).clamp_(min=0)

    def rounding_bound(self, rows: Tensor) -> Tensor:
        """Return the largest error `block` can make in each row, [R].

        A product of D terms is off by at most D u |a| |b|; the cast of a and b adds a few u more.
        """
        unit = torch.finfo(self._working_dtype).eps
        return (self._a.shape[1] + 8) * unit * (self._a_norms[rows] + self._b_norms.max())

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return float64 distances, [R, C], of query `rows[i]` to gallery items `columns[i]`, [R, C]."""
        width = self._a.shape[1]
        step = max(1, _EXACT_NUMBERS // (width * max(1, columns.shape[1])))
        distances = np.empty(tuple(columns.shape))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            a = self._queries[rows[some]].double().numpy()[:, None]
            b = self._gallery[columns[some]].double().numpy()
            distances[some] = euclidean(a, b)
        return torch.from_numpy(distances)

    @staticmethod
    def _norms(features: Tensor) -> Tensor:
        return features.double().square().sum(dim=1)

    def _centred(self, features: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        working = torch.empty(features.shape, dtype=self._working_dtype)
        for start in range(0, len(features), _BLOCK):
            working[start : start + _BLOCK] = (features[start : start + _BLOCK].double() - centre).to(
                working.dtype
            )
        norms = [self._norms(part) for part in working.split(_BLOCK)]
        return working, torch.cat(norms)


def euclidean(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |a - b| over the last axis; one pair gives the same bits in either order and in any batch."""
    return np.asarray(np.sqrt(np.square(a - b).sum(axis=-1)))


def check_features(queries: Tensor, gallery: Tensor) -> None:
    """Refuse feature sets that cannot be compared.

    Raises:
        ValueError: If a set is not [N >= 1, D], the widths differ, or a value is not finite.
    """
    for name, features in (("first", queries), ("second", gallery)):
        if features.ndim != 2 or len(features) < 1:
            raise ValueError(f"{name} feature set must be [N >= 1, D], got {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} feature set holds NaN or infinity; extract it again")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"feature dimensions differ: {queries.shape[1]} and {gallery.shape[1]}; "
            "were both sets encoded by the same extractor?"
        )
