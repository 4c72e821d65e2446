"""How many raters and prompts does a study need?

The difference of two models, as rater r sees it for prompt p, is taken as

D_pr = difference + a_p + b_r + e_pr

with deviations `prompt_deviation` of a (some prompts suit one model better) and `noise_deviation` of e (a rater
is not sure to a point). The test is that of `friedman.signed_rank_pairs`: signed ranks of the means over raters,
so b only shifts the difference for the raters at hand, and more raters cannot make up for too few prompts.
"""

from dataclasses import dataclass
from math import isfinite, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from medgen_review.statistics.agreement import mean_squares
from medgen_review.statistics.friedman import signed_rank_pairs
from medgen_review.statistics.intervals import UndefinedStatisticError

Array = NDArray[np.float64]

WILCOXON_EFFICIENCY = 3 / pi  # of signed ranks against the t-test for normal values (Pitman)


@dataclass(frozen=True)
class Spread:
    """How differences of two models scatter.

    Attributes:
        prompt_deviation: Between prompts, in points.
        noise_deviation: Of one rater on one prompt, in points.
    """

    prompt_deviation: float
    noise_deviation: float

    def single(self) -> float:
        """Return the deviation of one rater's difference for one prompt: what Cohen's d is relative to."""
        return sqrt(self.prompt_deviation**2 + self.noise_deviation**2)


def power_of(
    difference: float,
    spread: Spread,
    *,
    num_raters: int,
    num_prompts: int,
    alpha: float = 0.05,
    num_comparisons: int = 1,
    efficiency: float = WILCOXON_EFFICIENCY,
) -> float:
    """Return the probability that a true difference is found.

    1 - beta = P(|T| > t), T noncentral t with n - 1 degrees of freedom and noncentrality
    difference sqrt(n) / sqrt(prompt_deviation^2 + noise_deviation^2 / raters),  n = efficiency prompts

    Args:
        difference: Between two models, in points.
        spread: Of single differences.
        num_raters: Who all rate all prompts.
        num_prompts: At least 3.
        alpha: Two-sided level of the whole family of comparisons.
        num_comparisons: Pairs of models; each is tested at alpha / pairs, the first step of Holm.
        efficiency: 1 gives the t-test.

    Raises:
        ValueError: If a number is out of range.
    """
    _check(difference, spread, num_raters, num_prompts, alpha, num_comparisons)
    n = efficiency * num_prompts
    scale = sqrt(spread.prompt_deviation**2 + spread.noise_deviation**2 / num_raters)
    shift = difference * sqrt(n) / scale
    limit = float(stats.t.ppf(1 - alpha / num_comparisons / 2, n - 1))
    wrong_side = float(stats.nct.cdf(-limit, n - 1, shift))
    # scipy gives nan for what is below the smallest number it can sum.
    return float(stats.nct.sf(limit, n - 1, shift)) + (wrong_side if isfinite(wrong_side) else 0.0)


def detectable_difference(
    spread: Spread,
    *,
    num_raters: int,
    num_prompts: int,
    power: float = 0.8,
    alpha: float = 0.05,
    num_comparisons: int = 1,
) -> float:
    """Return the smallest difference, in points, that is found with a given power.

    Raises:
        ValueError: If a number is out of range.
    """
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha ({alpha}) and 1, got {power}")

    def lacking(difference: float) -> float:
        return (
            power_of(
                difference,
                spread,
                num_raters=num_raters,
                num_prompts=num_prompts,
                alpha=alpha,
                num_comparisons=num_comparisons,
            )
            - power
        )

    high = spread.single()
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 1e-12, high, xtol=1e-10))


def simulated_power(
    difference: float,
    spread: Spread,
    *,
    num_raters: int,
    num_prompts: int,
    seed: int,
    alpha: float = 0.05,
    num_comparisons: int = 1,
    num_trials: int = 1000,
) -> float:
    """Return the share of simulated studies in which the signed-rank test finds the difference.

    Raises:
        ValueError: If a number is out of range.
    """
    _check(difference, spread, num_raters, num_prompts, alpha, num_comparisons)
    generator = np.random.default_rng(seed)
    found = 0
    for _trial in range(num_trials):
        prompts = generator.normal(difference, spread.prompt_deviation, num_prompts)
        noise = generator.normal(0, spread.noise_deviation, (num_prompts, num_raters))
        means = prompts + noise.mean(axis=1)
        (pair,) = signed_rank_pairs(np.column_stack([means, np.zeros(num_prompts)]), ["a", "b"])
        found += pair.p_value < alpha / num_comparisons
    return found / num_trials


def pilot_spread(values: Array) -> Spread:
    """Estimate the spread from ratings at hand, pooled over pairs of models.

    prompt_deviation^2 = (MS_prompts - MS_error) / raters, at least 0;  noise_deviation^2 = MS_error

    Args:
        values: Ratings of one aspect, [P prompts, M items, R raters]; nan where not given.

    Raises:
        UndefinedStatisticError: If no two models have two prompts that two raters rated whole.
    """
    prompts, noise = [], []
    for first in range(values.shape[1]):
        for second in range(first + 1, values.shape[1]):
            difference = values[:, first] - values[:, second]
            whole = difference[np.isfinite(difference).all(axis=1)]
            if whole.shape[0] < 2 or whole.shape[1] < 2:
                continue
            squares = mean_squares(whole)
            prompts.append(max(squares.subjects - squares.error, 0.0) / squares.num_raters)
            noise.append(squares.error)
    if not noise:
        raise UndefinedStatisticError(
            "the spread cannot be estimated: it needs two models, two prompts and two raters who rated them all; "
            "give the deviations by hand"
        )
    return Spread(sqrt(float(np.mean(prompts))), sqrt(float(np.mean(noise))))


def _check(
    difference: float,
    spread: Spread,
    num_raters: int,
    num_prompts: int,
    alpha: float,
    num_comparisons: int,
) -> None:
    if min(spread.prompt_deviation, spread.noise_deviation) < 0 or spread.single() == 0:
        raise ValueError(
            "deviations must be 0 or more, and one of them above 0, got "
            f"{spread.prompt_deviation} between prompts, {spread.noise_deviation} of noise"
        )
    if not difference > 0:
        raise ValueError(f"the difference must be above 0, got {difference}")
    if num_raters < 1 or num_prompts < 3 or num_comparisons < 1:
        raise ValueError(
            f"expected a rater, three prompts and a comparison at least, got {num_raters}, {num_prompts}, "
            f"{num_comparisons}"
        )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
