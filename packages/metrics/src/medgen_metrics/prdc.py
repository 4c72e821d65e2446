"""Precision, recall, F1 (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

Around every image lies a ball that reaches its k-th nearest neighbour in its own set.
precision: share of synthetic images inside any real ball.
recall: share of real images inside any synthetic ball.
density: number of real balls around a synthetic image, divided by k.
coverage: share of real balls that hold a synthetic image.

Each pair of images is looked at once. Memory is bounded: only one block of the distance table exists at a time.
Values are exact: a distance that rounding could move across the rim of a ball is computed again in float64.

Shapes: N images of a set, H random halves (runs; run 0 is the whole set), P pairs of a real and a synthetic image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.intervals import Estimate, normal_estimate, proportion_estimate, random_halves
from medgen_metrics.neighbours import SquaredDistances, check_features, own_neighbours

Rim = Literal["<=", "<"]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_BLOCK = 1024
# Pairs that are looked at together, for all halves: bounds memory where everything lies in every ball.
_PAIRS = 500_000
_NUM_HALVES = 100


@dataclass(frozen=True)
class Prdc:
    """Precision, recall, their harmonic mean, density and coverage."""

    precision: Estimate
    recall: Estimate
    f1: Estimate
    density: Estimate
    coverage: Estimate


@dataclass(frozen=True)
class _Balls:
    """Radii of the balls around the images of one set, in every run."""

    radii: Floats  # [1 + H, N], exact in run 0; -1, which holds nothing, outside the half
    members: Bools  # [1 + H, N]
    widest: Floats  # largest radius of each image over all runs, [N]


class _BallHits:
    """What the balls of one set hold of another, in every run."""

    def __init__(self, balls: _Balls, queries: _Balls) -> None:
        self._balls, self._queries = balls, queries
        self._query_hit = np.zeros(queries.members.shape, dtype=np.bool_)
        self._ball_hit = np.zeros(balls.members.shape, dtype=np.bool_)
        self.num_hits = np.zeros(len(balls.members), dtype=np.int64)  # pairs of a ball and a query inside it

    def add(self, ball: Integers, query: Integers, distances: Floats, rim: Rim) -> None:
        """Count pairs, [P] each."""
        compare = np.less_equal if rim == "<=" else np.less
        # Whoever is outside all balls of the whole set may still be in a wider one of a half.
        for run, (radii, members) in enumerate(zip(self._balls.radii, self._queries.members, strict=True)):
            inside = compare(distances, radii[ball])
            inside &= members[query]
            self._query_hit[run, query[inside]] = True
            self._ball_hit[run, ball[inside]] = True
            self.num_hits[run] += np.count_nonzero(inside)

    @property
    def queries_inside(self) -> Integers:
        """Queries inside at least one ball, [1 + H]."""
        return np.asarray(self._query_hit.sum(axis=1))

    @property
    def balls_filled(self) -> Integers:
        """Balls with at least one query, [1 + H]."""
        return np.asarray(self._ball_hit.sum(axis=1))


def prdc(real: Tensor, synthetic: Tensor, *, k: int = 3, rim: Rim = "<=", seed: int) -> Prdc:
    """Return precision, recall, F1, density and coverage with 95% intervals.

    Standard errors come from random halves of both sets without replacement, for which no distance is
    computed anew: a half's balls are found in each image's list of neighbours. Proportions take the hull with
    Wilson's interval, so a precision of 1.0 from 20 images does not claim to be certain.

    Args:
        real: Features of the real images, [N1 > k, D], left unchanged.
        synthetic: Features of the synthetic images, [N2 > k, D], left unchanged.
        k: Which neighbour the balls reach, not counting the image itself.
        rim: Whether the rim belongs to the ball. With "<", copies of one image lie outside their own ball.
        seed: Seed of the random halves; the values do not depend on it.

    Raises:
        ValueError: If a set has no more than k images, or the sets cannot be compared.
    """
    check_features(real, synthetic)
    if k < 1 or min(len(real), len(synthetic)) <= k:
        raise ValueError(
            f"k={k} needs more than k images in each set, got {len(real)} real, {len(synthetic)} synthetic"
        )
    if rim not in {"<=", "<"}:
        raise ValueError(f"rim must be '<=' or '<', got {rim!r}")
    generator = np.random.default_rng(seed)
    # Halves of fewer than 2 (k + 1) images have no balls; such tiny sets keep Wilson's interval alone.
    num_halves = _NUM_HALVES if min(len(real), len(synthetic)) >= 2 * (k + 1) else 0
    in_real, in_synthetic = (
        np.concatenate([np.ones((1, n), dtype=np.bool_), random_halves(n, num_halves, generator)])
        for n in (len(real), len(synthetic))
    )
    around_real, around_synthetic = _ball_hits(
        real, synthetic, _balls(real, in_real, k), _balls(synthetic, in_synthetic, k), rim
    )
    return _summarise(around_real, around_synthetic, in_real.sum(axis=1), in_synthetic.sum(axis=1), k)


def _summarise(
    around_real: _BallHits,
    around_synthetic: _BallHits,
    num_real: NDArray[np.int64],
    num_synthetic: NDArray[np.int64],
    k: int,
) -> Prdc:
    precision = around_real.queries_inside / num_synthetic
    recall = around_synthetic.queries_inside / num_real
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    density = around_real.num_hits / (k * num_synthetic)
    coverage = around_real.balls_filled / num_real
    precision_estimate = proportion_estimate(
        int(around_real.queries_inside[0]), int(num_synthetic[0]), _spread(precision)
    )
    recall_estimate = proportion_estimate(
        int(around_synthetic.queries_inside[0]), int(num_real[0]), _spread(recall)
    )
    return Prdc(
        precision=precision_estimate,
        recall=recall_estimate,
        f1=_f1_estimate(float(f1[0]), _spread(f1), precision_estimate, recall_estimate),
        density=_density_estimate(float(density[0]), _spread(density), precision_estimate, k),
        coverage=proportion_estimate(int(around_real.balls_filled[0]), int(num_real[0]), _spread(coverage)),
    )


def _density_estimate(value: float, standard_error: float, precision: Estimate, k: int) -> Estimate:
    """Return density; where no ball holds an image, up to one ball for each image that Wilson leaves possible."""
    if value > 0:
        return normal_estimate(value, standard_error, lowest=0.0)
    return Estimate(value, standard_error, (0.0, precision.interval[1] / k))


def _f1_estimate(value: float, standard_error: float, precision: Estimate, recall: Estimate) -> Estimate:
    """Return F1; where the halves do not vary, its interval follows from those of precision and recall."""
    if standard_error > 0:
        return normal_estimate(value, standard_error, lowest=0.0, highest=1.0)
    ends = []
    for p, r in zip(precision.interval, recall.interval, strict=True):
        ends.append(2 * p * r / (p + r) if p + r > 0 else 0.0)
    return Estimate(value, standard_error, (min(ends[0], value), max(ends[1], value)))


def _spread(values: Floats) -> float:
    """Return the standard deviation over the halves, which is the standard error of the whole."""
    return float(values[1:].std(ddof=1)) if len(values) > 2 else 0.0


def _ball_hits(
    real: Tensor, synthetic: Tensor, real_balls: _Balls, synthetic_balls: _Balls, rim: Rim
) -> tuple[_BallHits, _BallHits]:
    """Count which synthetic images lie in which real balls, and which real images in which synthetic ones."""
    around_real = _BallHits(real_balls, synthetic_balls)
    around_synthetic = _BallHits(synthetic_balls, real_balls)
    for i, j, distances in _near_pairs(real, synthetic, real_balls, synthetic_balls):
        around_real.add(i, j, distances, rim)
        around_synthetic.add(j, i, distances, rim)
    return around_real, around_synthetic


def _near_pairs(
    real: Tensor, synthetic: Tensor, real_balls: _Balls, synthetic_balls: _Balls
) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Yield the pairs that are in a ball of either, in any run: indices and distances, [P] each."""
    product = SquaredDistances(real, synthetic)
    margins = product.rounding_bound(torch.arange(len(real)))  # [N1]
    row_limits = torch.from_numpy(real_balls.widest).square() + margins
    column_limits = torch.from_numpy(synthetic_balls.widest).square() + margins.max()
    radii = [torch.from_numpy(balls.radii[0]).square() for balls in (real_balls, synthetic_balls)]
    for top in range(0, len(real), _BLOCK):
        rows = torch.arange(top, min(top + _BLOCK, len(real)))
        for left in range(0, len(synthetic), _BLOCK):
            columns = torch.arange(left, min(left + _BLOCK, len(synthetic)))
            squared = product.block(rows, columns)
            near = squared <= row_limits[rows, None].to(squared.dtype)
            near |= squared <= column_limits[columns].to(squared.dtype)
            i, j = near.nonzero(as_tuple=True)
            for part in range(0, len(i), _PAIRS):
                a, b = i[part : part + _PAIRS], j[part : part + _PAIRS]
                values = squared[a, b].double()
                a, b = rows[a], columns[b]
                close_call = ((values - radii[0][a]).abs() <= margins[a]) | (
                    (values - radii[1][b]).abs() <= margins[a]
                )
                distances = values.sqrt()
                distances[close_call] = product.exact(a[close_call], b[close_call][:, None])[:, 0]
                yield a.numpy(), b.numpy(), distances.numpy()


def _balls(features: Tensor, members: Bools, k: int) -> _Balls:
    """Find the distance of every image to its k-th neighbour, within the whole set and within each half."""
    # Of 6 k + 20 neighbours about half are in a half: fewer than k of them is a matter of one in a million.
    num_kept = min(6 * k + 20, len(features) - 1)
    found = own_neighbours(features, k, num_kept)
    distances, indices = found.distances.double().numpy(), found.indices.numpy()
    radii = np.empty(members.shape)
    radii[0] = found.radii.numpy()
    every_row = np.arange(len(features))
    for run in range(1, len(members)):
        rank = members[run][indices].cumsum(axis=1, dtype=np.int16)  # how many members are at most this far
        place = np.where(rank[:, -1] >= k, (rank >= k).argmax(axis=1), num_kept - 1)
        radii[run] = np.where(members[run], distances[every_row, place], -1.0)
    return _Balls(radii, members, radii.max(axis=0))
