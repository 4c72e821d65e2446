"""Standard errors and 95% intervals for scores of sets.

Drawing images again *with* replacement is wrong here: a duplicated image is its own nearest neighbour, adds
k(x, x) to a kernel sum and shrinks the rank of a covariance, so the resampled scores are centred away from
the score itself. Each score therefore brings its own standard error (influence function, jackknife, random
halves), and every interval is centred at the score. What an interval covers is the *expected score at these
two set sizes*: scores that depend on the size of the sets, as the Frechet distance does, keep that
dependence.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# 97.5% quantile of the standard normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A score with its uncertainty."""

    value: float
    standard_error: float
    interval: tuple[float, float]  # 95%


def normal_estimate(
    value: float, standard_error: float, *, lowest: float = -math.inf, highest: float = math.inf
) -> Estimate:
    """Return value +- 1.96 standard errors, cut at the ends of the score's range."""
    low = min(max(value - Z_95 * standard_error, lowest), value)
    high = max(min(value + Z_95 * standard_error, highest), value)
    return Estimate(value, standard_error, (low, high))


def student_estimate(
    value: float,
    standard_error: float,
    freedom: int,
    *,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> Estimate:
    """Return value +- t standard errors for few degrees of freedom, cut at the ends of the score's range.

    Raises:
        ValueError: If `freedom` is not positive.
    """
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1, got {freedom}")
    reach = _student_975(freedom) * standard_error
    low, high = max(value - reach, lowest), min(value + reach, highest)
    return Estimate(value, standard_error, (min(low, value), max(high, value)))


def deviation_estimate(deviation: float, freedom: int) -> Estimate:
    """Return the standard deviation of normal draws with its interval, which chi-square makes lopsided.

    (freedom s^2 / chi2_0.975, freedom s^2 / chi2_0.025)      by the cube root of Wilson and Hilferty (1931)

    Raises:
        ValueError: If `freedom` is not positive.
    """
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1, got {freedom}")
    spread = 2 / (9 * freedom)
    low, high = (
        # Below two degrees of freedom the expansion comes near zero: no upper end is known.
        deviation / max(1 - spread + z * math.sqrt(spread), 1e-2) ** 1.5
        for z in (Z_95, -Z_95)
    )
    return Estimate(
        deviation, deviation / math.sqrt(2 * freedom), (min(low, deviation), max(high, deviation))
    )


def wilson_interval(num_hits: int, num_trials: int) -> tuple[float, float]:
    """Return the 95% score interval of a proportion (Wilson 1927); never of zero width, also at 0 and 1.

    Raises:
        ValueError: If `num_trials` is not positive or `num_hits` is outside 0..num_trials.
    """
    if not 0 <= num_hits <= num_trials or num_trials < 1:
        raise ValueError(
            f"expected 0 <= num_hits <= num_trials with num_trials >= 1, got {num_hits} of {num_trials}"
        )
    share, z2 = num_hits / num_trials, Z_95**2
    centre = (share + z2 / (2 * num_trials)) / (1 + z2 / num_trials)
    half_width = (
        Z_95 / (1 + z2 / num_trials) * math.sqrt(share * (1 - share) / num_trials + z2 / (4 * num_trials**2))
    )
    low = 0.0 if num_hits == 0 else max(0.0, centre - half_width)
    high = 1.0 if num_hits == num_trials else min(1.0, centre + half_width)
    return low, high


def proportion_estimate(num_hits: int, num_trials: int, standard_error: float) -> Estimate:
    """Return a proportion whose interval is the hull of the normal and the Wilson interval.

    The standard error sees the chance in both sets; Wilson's interval keeps a width where all trials agree.
    """
    normal = normal_estimate(num_hits / num_trials, standard_error, lowest=0.0, highest=1.0)
    wilson = wilson_interval(num_hits, num_trials)
    hull = (min(normal.interval[0], wilson[0]), max(normal.interval[1], wilson[1]))
    return Estimate(normal.value, standard_error, hull)


def random_halves(num_samples: int, num_halves: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw random halves of a set, without replacement.

    Over halves, a mean has variance (1/m - 1/n) s^2 with m = n/2, which is its variance s^2/n at the full
    size: the spread over halves *is* the standard error (delete-half jackknife, Shao and Wu 1989).

    Args:
        num_samples: Size of the set, at least 2.
        num_halves: Number of halves R.
        generator: Source of randomness.

    Returns:
        Membership, [R, N].
    """
    halves = np.zeros((num_halves, num_samples), dtype=np.bool_)
    for row in halves:
        row[generator.permutation(num_samples)[: (num_samples + 1) // 2]] = True
    return halves


def mean_estimate(
    group_values: NDArray[np.float64],
    generator: np.random.Generator,
    num_resamples: int = 2000,
    *,
    weights: NDArray[np.float64] | None = None,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> Estimate:
    """Return the mean over independent groups with a bootstrap interval; groups are drawn, never single images.

    Drawing with replacement is right here, because a mean does not care about copies. Percentiles of the
    bootstrap follow the skew of the groups but cannot leave their range, so for few groups the interval is
    their hull with Student's t interval.

    Args:
        group_values: One value of each group, [G].
        generator: Source of randomness.
        num_resamples: Number of bootstrap samples.
        weights: Weight of each group, [G]; equal ones by default.
        lowest: Least value that the mean can have.
        highest: Largest value that the mean can have.

    Returns:
        The estimate. One group alone says nothing about others: infinite error, the whole range as interval.

    Raises:
        ValueError: If there is no group.
    """
    num_groups = len(group_values)
    if num_groups < 1:
        raise ValueError("expected the value of at least one group, got none")
    weights = np.ones(num_groups) if weights is None else weights
    value = float(np.average(group_values, weights=weights))
    if num_groups == 1:
        return normal_estimate(value, math.inf, lowest=lowest, highest=highest)
    draws = generator.integers(0, num_groups, (num_resamples, num_groups))
    means = (group_values * weights)[draws].sum(axis=1) / weights[draws].sum(axis=1)
    standard_error = float(means.std(ddof=1)) * math.sqrt(num_groups / (num_groups - 1))
    reach = _student_975(num_groups - 1) * standard_error
    percentiles = np.quantile(means, [0.025, 0.975])
    low, high = min(float(percentiles[0]), value - reach), max(float(percentiles[1]), value + reach)
    interval = (max(min(low, value), lowest), min(max(high, value), highest))
    return Estimate(value, standard_error, interval)


def _student_975(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t: exact for 1 and 2 degrees of freedom, else to 0.3%."""
    if freedom == 1:
        return 12.706204736
    if freedom == 2:
        return 4.30265273
    # Cornish-Fisher expansion in 1 / freedom (Abramowitz and Stegun 1964, 26.7.5).
    z = Z_95
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
