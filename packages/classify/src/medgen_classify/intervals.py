"""95% intervals: Wilson for a share, bootstrap over test images for everything else.

Both speak of *other test images from the same source*, not of another training run.
Shapes: N images, R resamples.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

_Z = 1.959963984540054  # 97.5% quantile of the standard normal

Interval = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """A number with its 95% interval and where the interval comes from."""

    value: float
    interval: Interval
    method: Literal["wilson", "bootstrap"]

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of the figure."""
        return {"value": self.value, "interval": list(self.interval), "method": self.method}


def wilson_interval(num_successes: float, num_trials: float) -> Interval:
    """Return the 95% score interval of a share (Wilson 1927); (0, 1) without trials.

    Unlike a bootstrap it stays honest at 0% and 100%.

    >>> low, high = wilson_interval(10, 10)
    >>> round(low, 4), high
    (0.7225, 1.0)

    Raises:
        ValueError: If the successes are negative or more than the trials.
    """
    if not 0 <= num_successes <= num_trials:
        raise ValueError(f"need 0 <= successes <= trials, got {num_successes} of {num_trials}")
    if num_trials == 0:
        return 0.0, 1.0
    share, z2 = num_successes / num_trials, _Z**2
    centre = (share + z2 / (2 * num_trials)) / (1 + z2 / num_trials)
    half = _Z * math.sqrt(share * (1 - share) / num_trials + z2 / (4 * num_trials**2)) / (1 + z2 / num_trials)
    # At the ends the formula is exact in theory and off by one rounding in practice.
    low = 0.0 if num_successes == 0 else centre - half
    high = 1.0 if num_successes == num_trials else centre + half
    return float(low), float(high)


def wilson_figure(num_successes: float, num_trials: float) -> Figure:
    """Return a share with its Wilson interval; value 0 without trials."""
    value = num_successes / num_trials if num_trials else 0.0
    return Figure(float(value), wilson_interval(num_successes, num_trials), "wilson")


def bootstrap_figure(value: float, replicates: npt.NDArray[np.float64]) -> Figure:
    """Return a figure with the percentile interval of its replicates, [R]; NaN replicates are left out."""
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return Figure(float(value), (float(low), float(high)), "bootstrap")


def independent_units(group_ids: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Number the groups; an image without a group is a group of its own, [N]."""
    keys = [
        ("image", str(place)) if group is None else ("group", group) for place, group in enumerate(group_ids)
    ]
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def bootstrap_weights(
    labels: npt.NDArray[np.int64], units: npt.NDArray[np.int64], *, num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Draw resamples of the test images as weights: how often each image is in each resample.

    Stratified by class, so no class gets lost; whole units (patients, lesions) are drawn, because images
    of one unit are not independent. A unit belongs to its most frequent class.

    Args:
        labels: Class of every image, [N].
        units: `independent_units` of the images, [N].
        num_resamples: R.
        seed: Same seed and same test set, same resamples: two classifiers are compared in pairs.

    Returns:
        [R, N].
    """
    generator = np.random.default_rng(seed)
    members: dict[int, list[int]] = {}
    for unit, label in zip(units.tolist(), labels.tolist(), strict=True):
        members.setdefault(unit, []).append(label)
    unit_class = np.array([_most_frequent(members[unit]) for unit in range(len(members))])
    counts = np.empty((num_resamples, len(members)))
    for label in np.unique(unit_class):
        stratum = np.flatnonzero(unit_class == label)
        shares = np.full(len(stratum), 1 / len(stratum))
        counts[:, stratum] = generator.multinomial(len(stratum), shares, size=num_resamples)
    return counts[:, units]


def _most_frequent(labels: Sequence[int]) -> int:
    return min(Counter(labels).items(), key=lambda item: (-item[1], item[0]))[0]
