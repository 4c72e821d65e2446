"""How far raters agree: intraclass correlation, Krippendorff's alpha, weighted kappa, Kendall's W.

A *subject* is what is rated, here the set of one model for one prompt in one aspect. Three questions: do raters
give the same numbers (ICC, alpha), the same numbers pair by pair and corrected for chance (kappa), the same
order (W).

Shapes: N subjects, K raters, V values of the scale, B bootstrap samples.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medgen_review.statistics.intervals import LEVEL, Estimate, UndefinedStatisticError

Array = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["linear", "quadratic"]


@dataclass(frozen=True)
class MeanSquares:
    """Two-way analysis of variance of a table without gaps, one value per cell.

    Attributes:
        subjects: Between subjects, N - 1 degrees of freedom.
        raters: Between raters, K - 1.
        error: Residual, (N - 1)(K - 1).
        num_subjects: N.
        num_raters: K.
    """

    subjects: float
    raters: float
    error: float
    num_subjects: int
    num_raters: int


@dataclass(frozen=True)
class IntraclassCorrelation:
    """Agreement of raters who are a sample of all raters.

    Attributes:
        single: ICC(2,1): of one rater.
        average: ICC(2,k): of the mean of the K raters.
        num_subjects: Subjects that every rater rated.
        num_raters: K.
        num_left_out: Subjects that some rater did not rate.
    """

    single: Estimate
    average: Estimate
    num_subjects: int
    num_raters: int
    num_left_out: int


def mean_squares(values: Array) -> MeanSquares:
    """Return the mean squares of a complete table, [N >= 2, K >= 2].

    Raises:
        UndefinedStatisticError: If it is smaller or has gaps.
    """
    _check_table(values)
    if not np.isfinite(values).all():
        raise UndefinedStatisticError("mean squares need a table without gaps")
    num_subjects, num_raters = values.shape
    grand = values.mean()
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    residual = values - rows[:, None] - columns[None, :] + grand
    return MeanSquares(
        subjects=float(num_raters * ((rows - grand) ** 2).sum() / (num_subjects - 1)),
        raters=float(num_subjects * ((columns - grand) ** 2).sum() / (num_raters - 1)),
        error=float((residual**2).sum() / ((num_subjects - 1) * (num_raters - 1))),
        num_subjects=num_subjects,
        num_raters=num_raters,
    )


def intraclass_correlation(values: Array) -> IntraclassCorrelation:
    """Return ICC(2,1) and ICC(2,k): two-way random effects, absolute agreement.

    ICC(2,1) = (BMS - EMS) / (BMS + (k - 1) EMS + k (JMS - EMS) / n)
    ICC(2,k) = (BMS - EMS) / (BMS + (JMS - EMS) / n)                (Shrout & Fleiss 1979)

    Intervals are those of the paper, by Satterthwaite's degrees of freedom; the ends of ICC(2,k) follow from
    those of ICC(2,1) by the Spearman-Brown formula. Subjects that a rater left out are left out.

    Args:
        values: [N, K], nan where not rated.

    Raises:
        UndefinedStatisticError: If there are fewer than two raters or complete subjects, or all values are equal.
    """
    _check_table(values)
    whole = np.isfinite(values).all(axis=1)
    if whole.sum() < 2:
        raise UndefinedStatisticError(
            f"ICC needs two subjects that every rater rated, got {int(whole.sum())} of {len(values)}"
        )
    squares = mean_squares(values[whole])
    n, k = squares.num_subjects, squares.num_raters
    rater_part = (squares.raters - squares.error) / n
    denominator = squares.subjects + (k - 1) * squares.error + k * rater_part
    if np.ptp(values[whole]) == 0 or denominator <= 0:
        raise UndefinedStatisticError("all ratings are equal: there is nothing to agree on")
    single = (squares.subjects - squares.error) / denominator
    ends = _icc_interval(squares, single)
    average_ends = None if ends is None else (_spearman_brown(ends[0], k), _spearman_brown(ends[1], k))
    note = "" if ends else "no interval: raters agree in every value"
    average_scale = squares.subjects + rater_part
    if average_scale > 0:
        average = Estimate((squares.subjects - squares.error) / average_scale, average_ends, note)
    else:
        average = Estimate(None, None, "raters differ more than subjects do: ICC(2,k) does not exist")
    return IntraclassCorrelation(Estimate(single, ends, note), average, n, k, int((~whole).sum()))


def _icc_interval(squares: MeanSquares, icc: float) -> tuple[float, float] | None:
    n, k = squares.num_subjects, squares.num_raters
    if squares.error <= 0 and squares.raters <= 0:
        return None
    if squares.error <= 0:
        freedom = float(k - 1)  # the limit of the formula below for an infinite ratio
    else:
        ratio = squares.raters / squares.error
        spread = n * (1 + (k - 1) * icc) - k * icc
        freedom = (
            (k - 1)
            * (n - 1)
            * (k * icc * ratio + spread) ** 2
            / ((n - 1) * k**2 * icc**2 * ratio**2 + spread**2)
        )
    tail = (1 + LEVEL) / 2
    upper = float(stats.f.ppf(tail, n - 1, freedom))
    lower = float(stats.f.ppf(tail, freedom, n - 1))
    others = k * squares.raters + (k * n - k - n) * squares.error
    low = n * (squares.subjects - upper * squares.error) / (upper * others + n * squares.subjects)
    high = n * (lower * squares.subjects - squares.error) / (others + n * lower * squares.subjects)
    return float(low), float(high)


def _spearman_brown(icc: float, num_raters: int) -> float:
    return num_raters * icc / (1 + (num_raters - 1) * icc)


def coincidences(values: Array, num_values: int) -> Array:
    """Return how often two raters gave values c and k to one subject, [V, V].

    o_ck = sum over subjects of (pairs c, k of different raters) / (m_u - 1)    (Krippendorff 2011)

    A subject with m_u < 2 values has no pairs and counts nothing.

    Args:
        values: Integers from 0, [N, K], nan where not rated.
        num_values: V.
    """
    table = np.zeros((num_values, num_values))
    for row in values:
        given = row[np.isfinite(row)].astype(int)
        if len(given) < 2:
            continue
        counts = np.bincount(given, minlength=num_values).astype(np.float64)
        table += (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
    return table


def alpha_of_coincidences(table: Array, level: Level) -> Array:
    """Return Krippendorff's alpha of coincidence tables, [...] of [..., V, V]; nan where it does not exist.

    alpha = 1 - (n - 1) sum o_ck d_ck / sum n_c n_k d_ck                        (Krippendorff 2011)

    d is 0 or 1 (nominal), (c - k)^2 (interval), or the squared number of values between c and k, each end
    counted half (ordinal).
    """
    totals = table.sum(axis=-1)  # [..., V]
    n = totals.sum(axis=-1)
    match level:
        case "nominal":
            distance = 1.0 - np.eye(table.shape[-1])
        case "interval":
            scale = np.arange(table.shape[-1], dtype=np.float64)
            distance = (scale[:, None] - scale[None, :]) ** 2
        case "ordinal":
            middle = np.cumsum(totals, axis=-1) - totals / 2
            distance = (middle[..., :, None] - middle[..., None, :]) ** 2
    observed = (table * distance).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum(axis=(-2, -1))
    ratio = np.divide((n - 1) * observed, expected, out=np.full(np.shape(n), np.nan), where=expected > 0)
    return np.asarray(1.0 - ratio)


def krippendorff_alpha(values: Array, level: Level, *, num_values: int) -> float:
    """Return Krippendorff's alpha; it takes gaps as they are.

    Args:
        values: Integers from 0 to V - 1, [N, K], nan where not rated.
        level: Of measurement.
        num_values: V.

    Raises:
        UndefinedStatisticError: If no subject has two values, or all values are equal.
    """
    table = coincidences(values, num_values)
    if table.sum() == 0:
        raise UndefinedStatisticError("no subject was rated by two raters")
    alpha = float(alpha_of_coincidences(table, level))
    if not np.isfinite(alpha):
        raise UndefinedStatisticError("all ratings are equal: there is nothing to agree on")
    return alpha


def weighted_kappa(first: Array, second: Array, weights: Weights, *, num_values: int) -> float:
    """Return Cohen's weighted kappa of two raters.

    kappa = 1 - sum w_ij o_ij / sum w_ij e_ij,  w = |i - j| or (i - j)^2        (Cohen 1968)

    Args:
        first: Integers from 0 to V - 1, [N], nan where not rated.
        second: Same of the other rater.
        weights: Linear or quadratic.
        num_values: V.

    Raises:
        UndefinedStatisticError: If they share no subject, or both gave one and the same value throughout.
    """
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        raise UndefinedStatisticError("the two raters rated no subject in common")
    table = confusion(first, second, num_values)
    kappa = float(resampled_kappa(table[None], np.ones((1, 1)), weights)[0])
    if not np.isfinite(kappa):
        raise UndefinedStatisticError("both raters gave one and the same value throughout")
    return kappa


def confusion(first: Array, second: Array, num_values: int) -> Array:
    """Return how often the raters gave i and j to one subject, [V, V] of [N], [N]."""
    both = np.isfinite(first) & np.isfinite(second)
    flat = first[both].astype(int) * num_values + second[both].astype(int)
    counts = np.bincount(flat, minlength=num_values**2).astype(np.float64)
    return np.asarray(counts.reshape(num_values, num_values))


def resampled_kappa(tables: Array, weights: Array, kind: Weights) -> Array:
    """Return weighted kappa of sums of tables of counts, [B]; nan where it does not exist.

    Args:
        tables: One per prompt, [P, V, V].
        weights: How often each prompt counts, [B, P].
        kind: Linear or quadratic.
    """
    scale = np.arange(tables.shape[-1], dtype=np.float64)
    distance = np.abs(scale[:, None] - scale[None, :]) ** (1 if kind == "linear" else 2)
    # Sums of margins and distances are enough: no table per bootstrap sample.
    rows, columns = weights @ tables.sum(axis=2), weights @ tables.sum(axis=1)  # [B, V]
    observed = rows.sum(axis=1) * (weights @ (tables * distance).sum(axis=(1, 2)))
    expected = ((rows @ distance) * columns).sum(axis=1)
    ratio = np.divide(observed, expected, out=np.full(len(weights), np.nan), where=expected > 0)
    return np.asarray(1.0 - ratio)


def mean_pairwise_kappa(values: Array, weights: Weights, *, num_values: int) -> float:
    """Return the mean weighted kappa of all pairs of raters (Light 1971), [N, K].

    Pairs without a common subject, or for which kappa does not exist, are left out.

    Raises:
        UndefinedStatisticError: If that leaves no pair.
    """
    kappas = []
    for first, second in combinations(range(values.shape[1]), 2):
        try:
            kappas.append(weighted_kappa(values[:, first], values[:, second], weights, num_values=num_values))
        except UndefinedStatisticError:
            continue
    if not kappas:
        raise UndefinedStatisticError("no two raters rated a subject in common with values that differ")
    return float(np.mean(kappas))


def _check_table(values: Array) -> None:
    if values.ndim != 2 or values.shape[1] < 2:
        raise UndefinedStatisticError("one rater: agreement between raters cannot be given")
    if values.shape[0] < 2:
        raise UndefinedStatisticError("agreement needs at least two subjects")
