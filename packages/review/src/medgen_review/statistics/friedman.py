"""Do models differ? Friedman's test over prompts, pairs by signed ranks, Holm's correction.

A block is a prompt, its value for a model the mean over raters: raters of one prompt see the same images, so
they are no independent blocks.

Shapes: N blocks, K treatments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medgen_review.statistics.intervals import UndefinedStatisticError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FriedmanTest:
    """Result of Friedman's test.

    Attributes:
        statistic: Chi-squared, corrected for ties.
        p_value: By the chi-squared distribution with K - 1 degrees of freedom.
        concordance: Kendall's W, 0 to 1: the size of the effect.
        mean_ranks: Of each treatment, [K]; the largest value has the largest rank.
        num_blocks: Blocks without gaps.
        num_left_out: Blocks with gaps.
    """

    statistic: float
    p_value: float
    concordance: float
    mean_ranks: tuple[float, ...]
    num_blocks: int
    num_left_out: int


@dataclass(frozen=True)
class PairTest:
    """Wilcoxon's signed-rank test of two treatments.

    Attributes:
        first: Name.
        second: Name.
        statistic: Smaller sum of signed ranks; 0 if all differences are 0.
        p_value: Two-sided.
        p_holm: Corrected over the pairs.
        num_blocks: Blocks that have both.
    """

    first: str
    second: str
    statistic: float
    p_value: float
    p_holm: float
    num_blocks: int


def friedman(values: Array) -> FriedmanTest:
    """Test whether the treatments have one distribution within blocks (Friedman 1937).

    chi2 = (12 sum R_j^2 / (N K (K + 1)) - 3 N (K + 1)) / (1 - sum (t^3 - t) / (N K (K^2 - 1)))
    W = chi2 / (N (K - 1))                                                      (Kendall & Smith 1939)

    R_j are sums of ranks within blocks, ties share their mean rank; t are the sizes of groups of ties.

    Args:
        values: [N, K]; blocks with nan are left out.

    Raises:
        UndefinedStatisticError: If there are fewer than two treatments or whole blocks, or all blocks are constant.
    """
    if values.ndim != 2 or values.shape[1] < 2:
        raise UndefinedStatisticError("one model: there is nothing to compare")
    whole = values[np.isfinite(values).all(axis=1)]
    n, k = whole.shape
    if n < 2:
        raise UndefinedStatisticError(
            f"the test needs at least two prompts with values of all models, got {n}"
        )
    ranks = stats.rankdata(whole, axis=1)
    ties = sum(float((counts**3 - counts).sum()) for counts in map(_group_sizes, whole))
    correction = 1 - ties / (n * k * (k**2 - 1))
    if correction <= 0:
        raise UndefinedStatisticError(
            "all models have equal values for every prompt: there is nothing to test"
        )
    sums = ranks.sum(axis=0)
    chi2 = (12 / (n * k * (k + 1)) * float(sums @ sums) - 3 * n * (k + 1)) / correction
    chi2 = max(chi2, 0.0)  # rounding
    return FriedmanTest(
        statistic=chi2,
        p_value=float(stats.chi2.sf(chi2, k - 1)),
        concordance=min(chi2 / (n * (k - 1)), 1.0),
        mean_ranks=tuple(float(rank) for rank in sums / n),
        num_blocks=n,
        num_left_out=len(values) - n,
    )


def _group_sizes(row: Array) -> Array:
    return np.asarray(np.unique(row, return_counts=True)[1], dtype=np.float64)


def holm(p_values: ArrayLike) -> Array:
    """Return p-values corrected for their number (Holm 1979), [N] in the order given.

    p'_(i) = max over j <= i of min(1, (N - j + 1) p_(j))
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    factors = len(raw) - np.arange(len(raw))
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * raw[order]))
    return corrected


def signed_rank_pairs(values: Array, names: Sequence[str]) -> tuple[PairTest, ...]:
    """Compare each two treatments by Wilcoxon's signed-rank test, Holm over the pairs.

    Zero differences are ranked and then dropped (Pratt 1959): dropping them first would make models that often tie
    look more different than they are. The p-value is that of scipy's method `auto`: exact for small numbers.

    Args:
        values: [N, K]; for each pair, blocks with nan in either are left out.
        names: Of the treatments, [K].

    Raises:
        UndefinedStatisticError: If some pair shares no block.
    """
    raw = []
    for first, second in combinations(range(len(names)), 2):
        difference = values[:, first] - values[:, second]
        difference = difference[np.isfinite(difference)]
        if not len(difference):
            raise UndefinedStatisticError(f"{names[first]} and {names[second]} have no prompt in common")
        statistic, p_value = 0.0, 1.0
        if np.any(difference != 0):
            result = stats.wilcoxon(difference, zero_method="pratt")
            statistic, p_value = float(result.statistic), float(result.pvalue)
        raw.append((names[first], names[second], statistic, p_value, len(difference)))
    corrected = holm([p_value for *_, p_value, _ in raw])
    return tuple(
        PairTest(first, second, statistic, p_value, float(p_holm), num)
        for (first, second, statistic, p_value, num), p_holm in zip(raw, corrected, strict=True)
    )
