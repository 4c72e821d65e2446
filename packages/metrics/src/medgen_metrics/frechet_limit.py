"""Frechet distance at infinite set size: FID_infinity (Chong and Forsyth 2020, section 4).

The distance of finite sets is biased upwards by about a / N1 + b / N2, with a and b that depend on the generator:
a ranking at one size can be wrong. The distance of random subsets is a straight line in 1 / N, whose value at
1 / N = 0 is the distance without the bias. The paper extends the line for the synthetic set only and keeps the
real one as it is; where real images are few too, the subsets of both shrink together.

Shapes: N images of a set, D feature width, S subset sizes.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medgen_metrics.feature_checks import check_features, check_widths
from medgen_metrics.feature_statistics import FeatureStatistics, fit_statistics
from medgen_metrics.frechet import frechet_distance, frechet_distance_of_statistics, frechet_influence
from medgen_metrics.intervals import Estimate, normal_estimate

Extrapolated = Literal["synthetic", "both"]


@dataclass(frozen=True)
class FrechetLimit:
    """The extrapolated distance and the line it comes from."""

    limit: Estimate  # may be slightly negative where the sets are of one distribution
    slope: float  # change of the distance with 1 / fraction
    fractions: tuple[float, ...]  # of the sets, one for each subset
    distances: tuple[float, ...]  # of the subsets
    extrapolated: Extrapolated
    seed: int


def frechet_limit(
    real: Tensor,
    synthetic: Tensor,
    *,
    extrapolated: Extrapolated = "synthetic",
    num_sizes: int = 15,
    smallest: float = 0.1,
    seed: int,
) -> FrechetLimit:
    """Extrapolate the Frechet distance to infinitely many images.

    The standard error joins the chance in the images (the influence function of the distance: the bias that is
    taken off is smaller by 1 / N) with the chance in the subsets (the scatter around the line). Bias of higher
    order stays: subsets should be larger than the feature width.

    Args:
        real: Features of the real images, [N1, D], left unchanged.
        synthetic: Features of the synthetic images, [N2, D], left unchanged.
        extrapolated: "synthetic" as in the paper, or "both" sets.
        num_sizes: Number of subset sizes S, evenly spaced, at least 3.
        smallest: Smallest subset, as a fraction of the set.
        seed: Seed of the subsets.

    Raises:
        ValueError: If a subset would have fewer than two images, or a setting is out of range.
    """
    check_features(real, "real features", least=2)
    check_features(synthetic, "synthetic features", least=2)
    check_widths(real.shape[1], synthetic.shape[1])
    fewest = min(len(synthetic), len(real)) if extrapolated == "both" else len(synthetic)
    if num_sizes < 3 or not 0 < smallest < 1 or round(smallest * fewest) < 2:
        raise ValueError(
            "expected num_sizes >= 3 and 0 < smallest < 1 with at least two images in the smallest subset, "
            f"got num_sizes={num_sizes}, smallest={smallest} of {fewest} images"
        )
    if extrapolated not in {"synthetic", "both"}:
        raise ValueError(f"extrapolated must be 'synthetic' or 'both', got {extrapolated!r}")
    generator = np.random.default_rng(seed)
    # The real set stays: its covariance is not computed anew for every subset.
    whole = fit_statistics(real) if extrapolated == "synthetic" and len(real) > real.shape[1] else None
    fractions, distances = [], []
    for fraction in np.linspace(smallest, 1.0, num_sizes):
        some_synthetic = _draw(synthetic, fraction, generator)
        some_real = _draw(real, fraction, generator) if extrapolated == "both" else real
        fractions.append(len(some_synthetic) / len(synthetic))
        distances.append(_distance(some_real, some_synthetic, whole))
    value, slope, line_error = _line(1 / np.array(fractions), np.array(distances))
    influence = frechet_influence(real, synthetic)
    variance = influence.real.var() / len(real) + influence.synthetic.var() / len(synthetic)
    limit = normal_estimate(value, math.sqrt(float(variance) + line_error**2))
    return FrechetLimit(limit, slope, tuple(fractions), tuple(distances), extrapolated, seed)


def _draw(features: Tensor, fraction: float, generator: np.random.Generator) -> Tensor:
    chosen = generator.permutation(len(features))[: max(2, round(fraction * len(features)))]
    return features[torch.from_numpy(chosen)]


def _distance(real: Tensor, synthetic: Tensor, whole: FeatureStatistics | None) -> float:
    # Statistics of few images are singular; rows are then cheaper and more exact.
    if whole is None or len(synthetic) <= synthetic.shape[1]:
        return frechet_distance(real, synthetic)
    return frechet_distance_of_statistics(whole, fit_statistics(synthetic))


def _line(
    inverse_sizes: np.ndarray[tuple[int], np.dtype[np.float64]],
    distances: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> tuple[float, float, float]:
    """Return intercept, slope and standard error of the intercept of a least-squares line."""
    spread = inverse_sizes - inverse_sizes.mean()
    slope = float(spread @ distances / (spread @ spread))
    intercept = float(distances.mean() - slope * inverse_sizes.mean())
    scatter = np.square(distances - intercept - slope * inverse_sizes).sum() / (len(distances) - 2)
    factor = 1 / len(distances) + inverse_sizes.mean() ** 2 / float(spread @ spread)
    return intercept, slope, math.sqrt(float(scatter) * factor)
