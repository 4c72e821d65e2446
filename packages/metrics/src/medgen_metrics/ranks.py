"""Do metrics agree with experts? Rank correlations, and the mean metric of each rank the experts gave.

Experts rank images, models or prompts from 1 (best); a metric gives numbers. Spearman's rho is the correlation of
ranks, Kendall's tau-b the surplus of pairs in the same order, both with ties. Several judgements of one prompt
are not independent, so intervals draw prompts again, never single judgements.

Shapes: N judgements, P prompts, M things that are ranked for each prompt.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medgen_metrics.intervals import Estimate, mean_estimate

CorrelationMethod = Literal["spearman", "kendall-b"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankTier:
    """The mean metric of everything the experts gave one rank."""

    rank: float
    mean: Estimate
    num_judgements: int


@dataclass(frozen=True)
class RankAgreement:
    """How a metric and expert ranks go together; plus one at best where lower values are better."""

    correlation: Estimate  # mean over prompts of the correlation within each
    pooled: float  # correlation of all judgements at once; nan if one side is constant
    tiers: tuple[RankTier, ...]
    num_prompts: int
    num_undefined: int  # prompts in which metric or ranks are all equal: they say nothing, and are left out
    method: CorrelationMethod
    seed: int


def average_ranks(values: ArrayLike) -> Array:
    """Return ranks from 1, [N]; equal values share the mean of their ranks."""
    numbers = np.asarray(values, dtype=np.float64)
    _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return np.asarray((last - (counts - 1) / 2)[place])


def spearman_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rho of two lists, [N >= 2] each; nan if one of them is constant.

    Raises:
        ValueError: If the lists differ in length, are too short or hold NaN.
    """
    x, y = (average_ranks(values) for values in _checked(first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else math.nan


def kendall_tau_b(first: ArrayLike, second: ArrayLike) -> float:
    """Return Kendall's tau-b of two lists, [N >= 2] each; nan if one of them is constant.

    tau_b = (concordant - discordant) / sqrt((pairs - ties in x) (pairs - ties in y))   (Kendall 1945)

    Raises:
        ValueError: If the lists differ in length, are too short or hold NaN.
    """
    x, y = _checked(first, second)
    surplus, untied_x, untied_y = 0, 0, 0
    # Row by row: a few thousand judgements need no table of all pairs.
    for index in range(len(x) - 1):
        x_order, y_order = np.sign(x[index + 1 :] - x[index]), np.sign(y[index + 1 :] - y[index])
        surplus += int(x_order @ y_order)
        untied_x += int(np.count_nonzero(x_order))
        untied_y += int(np.count_nonzero(y_order))
    return surplus / math.sqrt(untied_x * untied_y) if untied_x and untied_y else math.nan


def rank_agreement(
    values: ArrayLike,
    ranks: ArrayLike,
    *,
    method: CorrelationMethod = "spearman",
    seed: int,
    num_resamples: int = 2000,
) -> RankAgreement:
    """Compare a metric with the ranks of experts.

    Args:
        values: The metric of everything that was ranked, [P, M]; NaN where something was not judged.
        ranks: The ranks of the experts, 1 is best, [P, M]; NaN where something was not judged.
        method: Correlation.
        seed: Seed of the bootstrap over prompts.
        num_resamples: Number of bootstrap samples.

    Raises:
        ValueError: If the tables differ in shape, or no prompt has two different judgements of each kind.
    """
    table, tiers = np.asarray(values, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    if table.ndim != 2 or table.shape != tiers.shape or not table.size:
        raise ValueError(
            f"values and ranks must be one shape [num_prompts, num_ranked], got {table.shape} and {tiers.shape}"
        )
    if method not in _CORRELATIONS:
        raise ValueError(f"method must be one of {', '.join(_CORRELATIONS)}, got {method!r}")
    correlate = _CORRELATIONS[method]
    judged = np.isfinite(table) & np.isfinite(tiers)
    within = np.full(len(table), np.nan)
    for prompt, mask in enumerate(judged):
        if mask.sum() >= 2:
            within[prompt] = correlate(table[prompt, mask], tiers[prompt, mask])
    defined = within[np.isfinite(within)]
    if not len(defined):
        raise ValueError(
            "no prompt has two judgements that differ in metric and in rank: nothing to correlate"
        )
    generator = np.random.default_rng(seed)
    return RankAgreement(
        correlation=mean_estimate(defined, generator, num_resamples, lowest=-1.0, highest=1.0),
        pooled=correlate(table[judged], tiers[judged]),
        tiers=_tiers(table, np.where(judged, tiers, np.nan), generator, num_resamples),
        num_prompts=len(table),
        num_undefined=len(table) - len(defined),
        method=method,
        seed=seed,
    )


def _tiers(
    values: Array, ranks: Array, generator: np.random.Generator, num_resamples: int
) -> tuple[RankTier, ...]:
    tiers = []
    for rank in np.unique(ranks[np.isfinite(ranks)]):
        chosen = ranks == rank  # [P, M]
        counts = chosen.sum(axis=1)
        prompts = counts > 0
        sums = np.where(chosen, values, 0.0).sum(axis=1)[prompts]
        mean = mean_estimate(
            sums / counts[prompts], generator, num_resamples, weights=counts[prompts].astype(np.float64)
        )
        tiers.append(RankTier(float(rank), mean, int(counts.sum())))
    return tuple(tiers)


def _checked(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"expected two lists of one length, at least 2, got {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("a rank correlation of NaN is not defined; leave these judgements out of both lists")
    return x, y


_CORRELATIONS = {"spearman": spearman_correlation, "kendall-b": kendall_tau_b}
