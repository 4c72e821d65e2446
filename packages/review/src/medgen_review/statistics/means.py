"""Mean rating of each model in each aspect, and of the differences between models (Figure 5 of Prompt to Polyp).

Shapes: A aspects, P prompts, M items, R raters, B bootstrap samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medgen_review.statistics.intervals import Estimate, Resamples, bootstrap_estimate, draw_resamples
from medgen_review.statistics.tables import Table, prompt_means

Array = NDArray[np.float64]

OVERALL = "overall"  # mean over the aspects


@dataclass(frozen=True)
class ModelMean:
    """Mean rating of one item in one aspect.

    Attributes:
        item: Model.
        aspect: Key, or `OVERALL`.
        mean: Over prompts and raters.
        deviation: Standard deviation of the single values; None for one value and for `OVERALL`.
        num_values: Values given.
    """

    item: str
    aspect: str
    mean: Estimate
    deviation: float | None
    num_values: int


@dataclass(frozen=True)
class MeanDifference:
    """First minus second, of the values that both got from one rater for one prompt."""

    first: str
    second: str
    aspect: str
    difference: Estimate
    num_pairs: int


@dataclass(frozen=True)
class RephrasingDifference:
    """Mean rating of one item on rephrased prompts minus that on original ones."""

    item: str
    difference: Estimate


def model_means(table: Table, *, seed: int) -> tuple[ModelMean, ...]:
    """Return the mean of every item in every aspect, then over the aspects.

    Every value counts the same; `OVERALL` is the mean of the aspects' means.

    Args:
        table: Ratings.
        seed: Seed of the bootstrap over prompts and raters.
    """
    resamples = draw_resamples(len(table.prompts), len(table.raters), seed=seed)
    means: list[ModelMean] = []
    for column, item in enumerate(table.items):
        values = table.values[:, :, column]  # [A, P, R]
        points, samples = zip(*(_mean(each, resamples) for each in values), strict=True)
        for aspect, each, point, sample in zip(table.aspects, values, points, samples, strict=True):
            given = each[np.isfinite(each)]
            estimate = _estimate(point, sample, np.isfinite(each))
            deviation = float(given.std(ddof=1)) if len(given) > 1 else None
            means.append(ModelMean(item, aspect, estimate, deviation, len(given)))
        overall = _estimate(
            float(np.mean(points)), np.mean(samples, axis=0), np.asarray(np.isfinite(values).any(axis=0))
        )
        means.append(ModelMean(item, OVERALL, overall, None, int(np.isfinite(values).sum())))
    return tuple(means)


def mean_differences(table: Table, *, seed: int) -> tuple[MeanDifference, ...]:
    """Return, for every aspect, the mean difference of each two items.

    Only pairs of values count that one rater gave both items of for one prompt, so a lenient rater cancels.

    Args:
        table: Ratings.
        seed: Seed of the bootstrap over prompts and raters.
    """
    resamples = draw_resamples(len(table.prompts), len(table.raters), seed=seed)
    found = []
    for aspect, values in zip(table.aspects, table.values, strict=True):
        for first, second in combinations(range(len(table.items)), 2):
            difference = values[:, first] - values[:, second]  # [P, R]
            found.append(
                MeanDifference(
                    table.items[first],
                    table.items[second],
                    aspect,
                    crossed_mean(difference, resamples),
                    int(np.isfinite(difference).sum()),
                )
            )
    return tuple(found)


def rephrasing_differences(
    table: Table, kinds: Mapping[str, str], *, seed: int
) -> tuple[RephrasingDifference, ...]:
    """Return, for every item, how much worse or better it is rated where the prompt says it in other words.

    The mean over aspects counts. Intervals draw original and rephrased prompts again, each among themselves, and
    the raters, the same for both.

    Args:
        table: Ratings.
        kinds: `original` or `rephrased` of every prompt.
        seed: Seed of the bootstrap.
    """
    first, second = (
        np.array([kinds[prompt] == kind for prompt in table.prompts]) for kind in ("rephrased", "original")
    )
    if not first.any() or not second.any():
        return ()
    raters = draw_resamples(1, len(table.raters), seed=seed).raters
    found = []
    for column, item in enumerate(table.items):
        values = np.moveaxis(table.values[:, :, column], 0, -1)  # [P, R, A]
        means = prompt_means(values)  # over aspects, [P, R]
        sides = [
            _mean(
                means[side],
                Resamples(draw_resamples(int(side.sum()), 1, seed=seed + 1 + place).prompts, raters),
            )
            for place, side in enumerate((first, second))
        ]
        (rephrased, one), (original, other) = sides
        known = np.isfinite(means).any(axis=1)
        fewest = min(int((known & first).sum()), int((known & second).sum()))
        if fewest == 0:
            estimate = Estimate(None, None, "no value was given")
        else:
            estimate = bootstrap_estimate(
                rephrased - original, one - other, num_units=fewest, unit="prompts of each kind"
            )
        found.append(RephrasingDifference(item, estimate))
    return tuple(found)


def crossed_mean(values: Array, resamples: Resamples) -> Estimate:
    """Return the mean of [P, R] with its interval; nan are values that were not given."""
    point, samples = _mean(values, resamples)
    return _estimate(point, samples, np.isfinite(values))


def _mean(values: Array, resamples: Resamples) -> tuple[float, Array]:
    """Return the mean of [P, R] and of its bootstrap samples, [B]; nan where nothing was given."""
    given = np.isfinite(values)
    known = np.where(given, values, 0.0)
    sums = ((resamples.prompts @ known) * resamples.raters).sum(axis=1)
    counts = ((resamples.prompts @ given) * resamples.raters).sum(axis=1)
    samples = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return (float(known.sum() / given.sum()) if given.any() else float("nan")), samples


def _estimate(point: float, samples: Array, given: NDArray[np.bool_]) -> Estimate:
    if not np.isfinite(point):
        return Estimate(None, None, "no value was given")
    num_prompts, num_raters = int(given.any(axis=1).sum()), int(given.any(axis=0).sum())
    # One of the two is enough to draw from; the other is then fixed.
    return bootstrap_estimate(
        point, samples, num_units=max(num_prompts, num_raters), unit="prompts or raters"
    )
