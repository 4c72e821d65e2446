"""Exact nearest neighbours in feature space.

|a - b|^2 = |a|^2 + |b|^2 - 2 a.b is one matrix product, but near copies cancel in it: a copy can come out
farther than a stranger. So the product only proposes candidates, with a rounding bound; distances that matter
are computed again as |a - b| in float64, and a query whose candidates cannot be told apart from the rest is
searched exhaustively.

Shapes: Q queries, G gallery items, D feature width, K neighbours, C candidates.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.feature_checks import check_features as check_feature_set

# Side of a block of the distance table: 4 MiB in float32.
_BLOCK = 1024
# Rows of a feature table converted at a time.
_ROWS = 128
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
        best, candidates = _candidates(product, rows, num_candidates, exclude_self=exclude_self)
        distances, order = product.exact(rows, candidates).sort(dim=1, stable=True)
        distances, indices = distances[:, :k], candidates.gather(1, order)[:, :k]
        # Certain if even the best item left out, after rounding, is no nearer than the K-th one kept.
        worst_kept = distances[:, -1].square()
        left_out = best[:, -1].double() - product.rounding_bound(rows)
        uncertain = (left_out < worst_kept) & (worst_kept > 0) & (num_candidates < num_others)
        for row in uncertain.nonzero()[:, 0].tolist():
            distances[row], indices[row] = _search_all(product, int(rows[row]), k, exclude_self=exclude_self)
        all_distances[rows], all_indices[rows] = distances, indices
    return all_distances, all_indices


@dataclass(frozen=True)
class OwnNeighbours:
    """The neighbours of every image within its own set."""

    radii: Tensor  # distance to the K-th, [Q] float64, exact
    distances: Tensor  # to the C nearest, [Q, C], ascending, within rounding
    indices: Tensor  # of the C nearest, [Q, C]


def own_neighbours(features: Tensor, k: int, num_candidates: int) -> OwnNeighbours:
    """Find the neighbours of every row among the other rows.

    Each pair is looked at once, and only distances that rounding could swap with the K-th are computed again:
    cheaper than `nearest_neighbours` by far where many neighbours are kept.

    Args:
        features: Features, [Q, D], left unchanged.
        k: Neighbour whose exact distance is wanted.
        num_candidates: Number of neighbours C to keep, k <= C < Q.

    Raises:
        ValueError: If C or K do not fit the number of rows, or a value is not finite.
    """
    check_feature_set(features, "features")
    if not 1 <= k <= num_candidates < len(features):
        raise ValueError(
            f"expected 1 <= k <= num_candidates < {len(features)} rows, got k={k}, num_candidates={num_candidates}"
        )
    product = SquaredDistances(features, features)
    best, indices = _own_candidates(product, num_candidates)
    radii = _exact_kth(product, best, indices, k)
    return OwnNeighbours(radii, best.clamp(min=0).sqrt(), indices)


def _own_candidates(product: "SquaredDistances", num_candidates: int) -> tuple[Tensor, Tensor]:
    """Return approximate squared distances, [Q, C] ascending, and indices; each pair of blocks once."""
    size = product.num_gallery
    best = torch.full((size, num_candidates), torch.inf, dtype=product.dtype)
    indices = torch.zeros(size, num_candidates, dtype=torch.int64)

    def merge(rows: Tensor, columns: Tensor, squared: Tensor) -> None:
        values, places = squared.topk(min(num_candidates, len(columns)), dim=1, largest=False, sorted=False)
        merged = torch.cat([best[rows], values], dim=1)
        best[rows], kept = merged.topk(num_candidates, dim=1, largest=False, sorted=True)
        indices[rows] = torch.cat([indices[rows], columns[places]], dim=1).gather(1, kept)

    blocks = [torch.arange(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            squared = product.block(rows, columns)
            if rows[0] == columns[0]:
                squared.fill_diagonal_(torch.inf)
            else:
                merge(columns, rows, squared.T.contiguous())
            merge(rows, columns, squared)
    return best, indices


def _exact_kth(product: "SquaredDistances", best: Tensor, indices: Tensor, k: int) -> Tensor:
    """Return the exact distance to the K-th nearest, [Q], given candidates within rounding."""
    every_row = torch.arange(product.num_gallery)
    # Both distances that are compared may be off, each by the bound.
    margin = 2 * product.rounding_bound(every_row)
    pivot = best[:, k - 1].double()
    in_doubt = (best.double() - pivot[:, None]).abs() <= margin[:, None]
    num_nearer = (best.double() < (pivot - margin)[:, None]).sum(dim=1)
    i, place = in_doubt.nonzero(as_tuple=True)
    exact = torch.full(best.shape, torch.inf, dtype=torch.float64)
    exact[i, place] = product.exact(i, indices[i, place][:, None])[:, 0]
    radii = exact.sort(dim=1).values.gather(1, (k - 1 - num_nearer)[:, None])[:, 0]
    # Doubt up to the last candidate: items that were left out might be nearer.
    overflow = in_doubt[:, -1] & (best.shape[1] < product.num_gallery - 1)
    for row in overflow.nonzero()[:, 0].tolist():
        radii[row] = _search_all(product, row, k, exclude_self=True)[0][-1]
    return radii


def _candidates(
    product: "SquaredDistances", rows: Tensor, num_candidates: int, *, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    """Return approximate squared distances, [R, C] ascending, and their indices."""
    best = torch.full((len(rows), num_candidates), torch.inf, dtype=product.dtype)
    indices = torch.zeros(len(rows), num_candidates, dtype=torch.int64)
    for left in range(0, product.num_gallery, _BLOCK):
        columns = torch.arange(left, min(left + _BLOCK, product.num_gallery))
        squared = product.block(rows, columns)
        if exclude_self and rows[0] == left:
            squared.fill_diagonal_(torch.inf)
        values, places = squared.topk(min(num_candidates, len(columns)), dim=1, largest=False)
        best, kept = torch.cat([best, values], dim=1).topk(num_candidates, dim=1, largest=False, sorted=True)
        indices = torch.cat([indices, columns[places]], dim=1).gather(1, kept)
    return best, indices


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
        self.dtype = torch.promote_types(queries.dtype, gallery.dtype)
        if self.dtype not in {torch.float32, torch.float64}:
            self.dtype = torch.float32
        # A common offset would cost digits in every product and changes no distance.
        total = sum(block.double().sum(dim=0) for block in self._gallery.split(_ROWS))
        self._centre = total / len(gallery)
        self._centred_gallery = self._centred(self._gallery)
        self._gallery_norms = _squared_norms(self._centred_gallery)
        self._is_same = queries is gallery
        self._query_norms = self._gallery_norms if self._is_same else self._norms_of_queries()
        # Of the queries, only the block asked for last is kept: callers go through a row of blocks.
        self._last_rows: tuple[int, int] = (0, 0)
        self._last_queries = torch.empty(0, queries.shape[1], dtype=self.dtype)

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return squared distances of a block, [R, C] in the working precision, each within `rounding_bound`.

        Args:
            rows: Consecutive indices of queries.
            columns: Consecutive indices of gallery items.
        """
        squared = self._query_block(rows) @ self._centred_gallery[int(columns[0]) : int(columns[-1]) + 1].T
        squared.mul_(-2).add_(self._query_norms[rows, None].to(self.dtype))
        return squared.add_(self._gallery_norms[columns].to(self.dtype)).clamp_(min=0)

    def rounding_bound(self, rows: Tensor) -> Tensor:
        """Return the largest error `block` can make in each row, [R] float64.

        A product of D terms is off by at most D u |a| |b|; casts of a and b and the sums add a few u more.
        """
        unit = torch.finfo(self.dtype).eps
        return (len(self._centre) + 16) * unit * (self._query_norms[rows] + self._gallery_norms.max())

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return float64 distances, [R, C], of query `rows[i]` to gallery items `columns[i]`, [R, C]."""
        width = len(self._centre)
        step = max(1, _EXACT_NUMBERS // (width * max(1, columns.shape[1])))
        distances = np.empty(tuple(columns.shape))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            a = self._queries[rows[some]].double().numpy()[:, None]
            b = self._gallery[columns[some]].double().numpy()
            distances[some] = euclidean(a, b)
        return torch.from_numpy(distances)

    def _centred(self, features: Tensor) -> Tensor:
        """Return features about the centre, [N, D] in the working precision."""
        if self.dtype == torch.float64:
            return features.double() - self._centre
        # Rounded once: a difference of float32 numbers and a float32 centre would be off by a unit of the centre.
        centred = torch.empty(features.shape, dtype=self.dtype)
        for start in range(0, len(features), _ROWS):
            centred[start : start + _ROWS] = features[start : start + _ROWS].double() - self._centre
        return centred

    def _query_block(self, rows: Tensor) -> Tensor:
        span = int(rows[0]), int(rows[-1]) + 1
        if self._is_same:
            return self._centred_gallery[slice(*span)]
        if span != self._last_rows:
            self._last_rows, self._last_queries = span, self._centred(self._queries[slice(*span)])
        return self._last_queries

    def _norms_of_queries(self) -> Tensor:
        return torch.cat([_squared_norms(self._centred(part)) for part in self._queries.split(_BLOCK)])


def _squared_norms(features: Tensor) -> Tensor:
    return torch.cat([part.double().square().sum(dim=1) for part in features.split(_ROWS)])


def euclidean(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |a - b| over the last axis; one pair gives the same bits in either order and in any batch."""
    return np.asarray(np.sqrt(np.square(a - b).sum(axis=-1)))


def check_features(queries: Tensor, gallery: Tensor) -> None:
    """Refuse feature sets that cannot be compared.

    Raises:
        ValueError: If a set is not [N >= 1, D], the widths differ, or a value is not finite.
    """
    for name, features in (("first", queries), ("second", gallery)):
        check_feature_set(features, f"{name} feature set")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"feature dimensions differ: {queries.shape[1]} and {gallery.shape[1]}; "
            "were both sets encoded by the same extractor?"
        )
