"""Precision, recall, F1 (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

Around every image lies a ball that reaches its k-th nearest neighbour in its own set.
precision: share of synthetic images inside any real ball.
recall: share of real images inside any synthetic ball.
density: number of real balls around a synthetic image, divided by k.
coverage: share of real balls that hold a synthetic image.

Memory is bounded: only one block of the distance table exists at a time. Values are exact: a distance that
rounding could move across the rim of a ball is computed again in float64.

Shapes: N images of a set, H halves (random subsets, row 0 is the whole set), K neighbours kept per image.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.intervals import Estimate, normal_estimate, proportion_estimate, random_halves
from medgen_metrics.neighbours import SquaredDistances, check_features, nearest_neighbours

Rim = Literal["<=", "<"]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
_BLOCK = 1024
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
class _BallHits:
    """What the balls of one set hold of another, for the whole sets (row 0) and for random halves of them."""

    queries_inside: NDArray[np.int64]  # queries inside at least one ball, [1 + H]
    balls_filled: NDArray[np.int64]  # balls with at least one query, [1 + H]
    num_hits: NDArray[np.int64]  # pairs of a ball and a query inside it, [1 + H]


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
    real_balls = _ball_hits(real, synthetic, in_real, in_synthetic, k=k, rim=rim)
    synthetic_balls = _ball_hits(synthetic, real, in_synthetic, in_real, k=k, rim=rim)
    return _summarise(real_balls, synthetic_balls, in_real.sum(axis=1), in_synthetic.sum(axis=1), k)


def _summarise(
    real_balls: _BallHits,
    synthetic_balls: _BallHits,
    num_real: NDArray[np.int64],
    num_synthetic: NDArray[np.int64],
    k: int,
) -> Prdc:
    precision = real_balls.queries_inside / num_synthetic
    recall = synthetic_balls.queries_inside / num_real
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    density = real_balls.num_hits / (k * num_synthetic)
    coverage = real_balls.balls_filled / num_real
    precision_estimate = proportion_estimate(
        int(real_balls.queries_inside[0]), int(num_synthetic[0]), _spread(precision)
    )
    recall_estimate = proportion_estimate(
        int(synthetic_balls.queries_inside[0]), int(num_real[0]), _spread(recall)
    )
    return Prdc(
        precision=precision_estimate,
        recall=recall_estimate,
        f1=_f1_estimate(float(f1[0]), _spread(f1), precision_estimate, recall_estimate),
        density=_density_estimate(float(density[0]), _spread(density), precision_estimate, k),
        coverage=proportion_estimate(int(real_balls.balls_filled[0]), int(num_real[0]), _spread(coverage)),
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
    centres: Tensor, queries: Tensor, in_centres: Bools, in_queries: Bools, *, k: int, rim: Rim
) -> _BallHits:
    """Count which queries lie in which balls around the centres; each pair of images is looked at once."""
    radii = _radii(centres, in_centres, k)  # [1 + H, N], -1 outside the half
    num_runs = len(in_centres)
    query_hits = np.zeros((num_runs, len(queries)), dtype=np.bool_)
    ball_hits = np.zeros((num_runs, len(centres)), dtype=np.bool_)
    num_hits = np.zeros(num_runs, dtype=np.int64)
    product = SquaredDistances(centres, queries)
    widest = torch.from_numpy(radii.max(axis=0))
    for top in range(0, len(centres), _BLOCK):
        rows = torch.arange(top, min(top + _BLOCK, len(centres)))
        bounds = product.rounding_bound(rows)
        for left in range(0, len(queries), _BLOCK):
            columns = torch.arange(left, min(left + _BLOCK, len(queries)))
            squared = product.block(rows, columns)
            near = squared <= (widest[rows].square() + bounds)[:, None]
            i, j = near.nonzero(as_tuple=True)
            distances = squared[i, j].sqrt()
            close_call = (squared[i, j] - torch.from_numpy(radii[0])[rows[i]].square()).abs() <= bounds[i]
            distances[close_call] = product.exact(rows[i[close_call]], columns[j[close_call]][:, None])[:, 0]
            ball, query, reach = rows[i].numpy(), columns[j].numpy(), distances.numpy()
            for run in range(num_runs):
                limit = radii[run, ball]
                inside = (
                    ((reach <= limit) if rim == "<=" else (reach < limit))
                    & in_queries[run, query]
                    & (limit >= 0)
                )
                query_hits[run, query[inside]] = True
                ball_hits[run, ball[inside]] = True
                num_hits[run] += np.count_nonzero(inside)
    return _BallHits(query_hits.sum(axis=1), ball_hits.sum(axis=1), num_hits)


def _radii(centres: Tensor, in_centres: Bools, k: int) -> Floats:
    """Return the distance to the k-th neighbour within the whole set and within each half, [1 + H, N]."""
    # Of 6 k + 20 neighbours about half are in a half: fewer than k of them is a matter of one in a million.
    num_kept = min(6 * k + 20, len(centres) - 1)
    distances, indices = (
        part.numpy() for part in nearest_neighbours(centres, centres, num_kept, exclude_self=True)
    )
    radii = np.empty(in_centres.shape)
    for run, members in enumerate(in_centres):
        rank = members[indices].cumsum(axis=1)  # how many members are at most this far
        place = np.where(rank[:, -1] >= k, (rank >= k).argmax(axis=1), num_kept - 1)
        radii[run] = np.where(members, distances[np.arange(len(centres)), place], -1.0)
    return radii
