"""Estimates with intervals, and the bootstrap over prompts and raters they come from.

Ratings of one prompt are not independent, nor are those of one rater. Both are drawn again, each with
replacement and apart from the other: the bootstrap of crossed random effects (Owen 2007, The pigeonhole
bootstrap). It is a little too wide where single values scatter more than prompts and raters do.

Shapes: B bootstrap samples, P prompts, R raters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

LEVEL = 0.95
NUM_RESAMPLES = 2000
_FEW = 20  # defined samples that a percentile at 2.5% needs at the very least


class UndefinedStatisticError(ValueError):
    """A statistic does not exist for these values; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: None where it does not exist.
        interval: 95%; None where it cannot be given.
        note: Why the value or the interval is missing, else empty.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Resamples:
    """How often each prompt and each rater was drawn.

    Attributes:
        prompts: [B, P].
        raters: [B, R].
    """

    prompts: Array
    raters: Array


def draw_resamples(
    num_prompts: int, num_raters: int, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Resamples:
    """Draw prompts and raters with replacement, apart from each other.

    A single prompt or rater is drawn once in every sample: it is then taken as fixed.
    """
    generator = np.random.default_rng(seed)
    prompts, raters = (
        generator.multinomial(size, np.full(size, 1 / size), size=num_resamples)
        for size in (num_prompts, num_raters)
    )
    return Resamples(prompts.astype(np.float64), raters.astype(np.float64))


def percentile_interval(samples: Array) -> tuple[float, float] | None:
    """Return the percentiles 2.5 and 97.5 of bootstrap samples, [B]; None if too few of them exist."""
    defined = samples[np.isfinite(samples)]
    if len(defined) < max(_FEW, len(samples) // 2):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap_estimate(value: float, samples: Array, *, num_units: int, unit: str = "prompts") -> Estimate:
    """Return a value with its percentile interval, or with the reason why it has none.

    Args:
        value: Of all values.
        samples: Of the bootstrap samples, [B].
        num_units: Number of independent units that were drawn from.
        unit: What they are, in words.
    """
    if num_units < 2:
        return Estimate(value, None, f"no interval: it needs at least two {unit}")
    interval = percentile_interval(samples)
    note = "" if interval else "no interval: most bootstrap samples leave the value undefined"
    return Estimate(value, interval, note)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927).

    Raises:
        UndefinedStatisticError: If there was no trial.
    """
    if trials < 1:
        raise UndefinedStatisticError("a share of nothing has no interval")
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # The ends are 0 and 1 exactly where all trials agree; rounding must not pass them.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return low, high
