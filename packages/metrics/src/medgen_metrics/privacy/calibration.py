"""How near is too near: a distance threshold with a promised false-positive rate.

A constant threshold means something else in every feature space and on every organ. Real images that the
generator was not trained on show how near an innocent image comes to the training set. For n held-out images
with distances d_(1) <= ... <= d_(n), and a new innocent image exchangeable with them,

P(d_new < d_(k)) <= k / (n + 1),      so k = floor(rate (n + 1)) keeps the promise    (split conformal prediction)

whatever the distribution. The promise is about the average over held-out sets; `rate_bound` says how large the
rate may be, at 95% confidence, for the very set at hand: it has the distribution Beta(k, n + 1 - k).

Public collections hold pictures twice. One such picture split over training and held-out set makes the threshold
vanish, and with it every detection, so held-out images that are plainly leaks are left out of the calibration.
Where images fill m dimensions, the ratio r of nearest to second-nearest distance has P(r < x) = x^m, with m found
from the median ratio (Facco et al. 2017): an r that improbable is a leak, not chance.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_CHANCE_OF_FALSE_LEAK = 0.001


@dataclass(frozen=True)
class Threshold:
    """An image strictly nearer to the training set than `distance` is flagged as a copy."""

    distance: float
    false_positive_rate: float  # promised for this space
    rank: int  # `distance` is the rank-th smallest of the held-out distances
    num_holdout: int
    rate_bound: float  # 95% upper bound of the rate for this held-out set


def as_rate(false_positive_rate: float) -> Fraction:
    """Return the rate as the fraction that was meant, so that 0.01 x 100 is exactly 1.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    rate = (
        Fraction(false_positive_rate).limit_denominator(10**9) if 0 < false_positive_rate < 1 else Fraction(0)
    )
    if not 0 < rate < 1:
        raise ValueError(f"false_positive_rate must be above 0 and below 1, got {false_positive_rate}")
    return rate


def num_holdout_needed(false_positive_rate: float, *, num_spaces: int = 1) -> int:
    """Return how many held-out images support a rate that is shared by several spaces: S / rate - 1.

    Raises:
        ValueError: If the rate is not between 0 and 1, or there is no space.
    """
    if num_spaces < 1:
        raise ValueError(f"num_spaces must be at least 1, got {num_spaces}")
    return math.ceil(num_spaces / as_rate(false_positive_rate)) - 1


def threshold_rank(num_holdout: int, false_positive_rate: float, *, num_spaces: int = 1) -> int:
    """Return which of the ordered held-out distances is the threshold; needs no distance, so asked before any.

    Raises:
        ValueError: If there are too few held-out images to promise this rate; says how many are needed.
    """
    rate = as_rate(false_positive_rate) / num_spaces
    rank = math.floor(rate * (num_holdout + 1))
    if rank < 1:
        shared = f" over {num_spaces} spaces ({float(rate):g} each)" if num_spaces > 1 else ""
        raise ValueError(
            f"a false-positive rate of {false_positive_rate:g}{shared} needs at least "
            f"{num_holdout_needed(false_positive_rate, num_spaces=num_spaces)} held-out images, got "
            f"{num_holdout}; give more, use fewer spaces, or allow a higher rate"
        )
    return rank


def calibrate_threshold(
    holdout_distances: NDArray[np.float64], false_positive_rate: float, *, num_spaces: int = 1
) -> Threshold:
    """Find the largest threshold that keeps a false-positive rate.

    Args:
        holdout_distances: Distance of every held-out real image to its nearest training image, [n]; seen under
            the same views as the synthetic images.
        false_positive_rate: Promised over all spaces.
        num_spaces: Spaces that share the rate in equal parts (Bonferroni).

    Raises:
        ValueError: If there are too few held-out images to promise this rate, or so many of them are copies of
            training images that the threshold would be zero.
    """
    num_holdout = len(holdout_distances)
    rank = threshold_rank(num_holdout, false_positive_rate, num_spaces=num_spaces)
    distance = float(np.sort(holdout_distances)[rank - 1])
    if not distance > 0:
        raise ValueError(
            f"{int((holdout_distances == 0).sum())} of {num_holdout} held-out images are at distance 0 from a "
            "training image: they are not held out; remove them from one of the two sets"
        )
    rate = float(as_rate(false_positive_rate) / num_spaces)
    return Threshold(distance, rate, rank, num_holdout, _upper_bound_of_rate(rank, num_holdout))


def leaked_rows(ratios: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which held-out images are near copies of single training images.

    In simulations one innocent set of 150 in 400 had an image taken for a leak. A leak whose training image is
    itself there twice has the ratio 1 and is not found.

    Args:
        ratios: Nearest / second-nearest distance to the training set of each held-out image, [n], 0 to 1.

    Returns:
        Whether each is a leak, [n].
    """
    typical = float(np.median(ratios)) if len(ratios) else 1.0
    if not 0 < typical < 1:
        return np.zeros(len(ratios), dtype=np.bool_)
    num_dimensions = math.log(0.5) / math.log(typical)
    return np.asarray(ratios**num_dimensions < _CHANCE_OF_FALSE_LEAK / len(ratios))


def _upper_bound_of_rate(rank: int, num_holdout: int) -> float:
    """Return the 95% quantile of Beta(rank, n + 1 - rank): where P(Binomial(n, q) >= rank) = 0.95."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        fewer = sum(_binomial(hits, num_holdout, middle) for hits in range(rank))
        low, high = (middle, high) if fewer > 0.05 else (low, middle)
    return high


def _binomial(hits: int, trials: int, share: float) -> float:
    ways = math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
    return math.exp(ways + hits * math.log(share) + (trials - hits) * math.log1p(-share))
