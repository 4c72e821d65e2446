"""Can the ratings be trusted? Attention pages, raters who do not use the scale, effects of the place on a page.

Shapes: P prompts, R raters, J places on a page.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgen_review.rating_files import RatingRow
from medgen_review.statistics.friedman import friedman
from medgen_review.statistics.intervals import (
    Estimate,
    UndefinedStatisticError,
    draw_resamples,
    wilson_interval,
)
from medgen_review.statistics.means import crossed_mean
from medgen_review.statistics.tables import prompt_means

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RaterProfile:
    """What one rater did.

    Attributes:
        rater: Name.
        num_ratings: Of first showings.
        num_ranks: Of first showings.
        mean: Of the ratings; None without any.
        deviation: Their standard deviation; None below two.
        attention: Share of attention pages answered as asked; its value is None without any.
    """

    rater: str
    num_ratings: int
    num_ranks: int
    mean: float | None
    deviation: float | None
    attention: Estimate


@dataclass(frozen=True)
class PositionEffect:
    """Whether sets are rated higher or lower for where they stand on the page.

    Attributes:
        means: Of the ratings at each place, in points above what the model and the page would give.
        p_value: Friedman's test over prompts; None where it does not exist.
        note: Why not.
    """

    means: tuple[Estimate, ...]
    p_value: float | None
    note: str


def rater_profiles(rows: Sequence[RatingRow]) -> tuple[RaterProfile, ...]:
    """Return what every rater did, by name."""
    return tuple(_profile(rater, rows) for rater in sorted({row.rater for row in rows}))


def _profile(rater: str, rows: Sequence[RatingRow]) -> RaterProfile:
    own = [row for row in rows if row.rater == rater]
    values = np.array(
        [row.value for row in own if row.kind == "rating" and row.repeat == 0], dtype=np.float64
    )
    asked = [row for row in own if row.kind == "attention"]
    passed = sum(row.value == row.expected for row in asked)
    attention = Estimate(None, None, "no attention page was answered")
    if asked:
        attention = Estimate(passed / len(asked), wilson_interval(passed, len(asked)))
    return RaterProfile(
        rater=rater,
        num_ratings=len(values),
        num_ranks=sum(row.kind == "rank" and row.repeat == 0 for row in own),
        mean=float(values.mean()) if len(values) else None,
        deviation=float(values.std(ddof=1)) if len(values) > 1 else None,
        attention=attention,
    )


def position_effect(rows: Sequence[RatingRow], *, seed: int) -> PositionEffect:
    """Test whether the place on the page matters.

    From each rating the mean of its page and the mean of its model's distance to the page are taken away; what is
    left is averaged over aspects. Orders are balanced by the design, so it should not depend on the place.

    Args:
        rows: Of one study.
        seed: Seed of the bootstrap over prompts and raters.

    Raises:
        UndefinedStatisticError: If pages have fewer than two lettered sets.
    """
    rated = [row for row in rows if row.kind == "rating" and row.repeat == 0 and row.position >= 0]
    num_places = 1 + max((row.position for row in rated), default=-1)
    if num_places < 2:
        raise UndefinedStatisticError("pages have one set each: there are no places to compare")
    residuals = _residuals(rated, num_places)  # [P, J, R]
    resamples = draw_resamples(residuals.shape[0], residuals.shape[2], seed=seed)
    means = tuple(crossed_mean(residuals[:, place], resamples) for place in range(num_places))
    try:
        return PositionEffect(means, friedman(prompt_means(residuals)).p_value, "")
    except UndefinedStatisticError as error:
        return PositionEffect(means, None, str(error))


def _residuals(rated: Sequence[RatingRow], num_places: int) -> Array:
    pages: dict[tuple[str, str, str], list[RatingRow]] = defaultdict(list)
    for row in rated:
        pages[row.rater, row.prompt_id, row.aspect].append(row)
    centred = [
        (row, row.value - sum(each.value for each in page) / len(page))
        for page in pages.values()
        for row in page
    ]
    by_item: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row, value in centred:
        by_item[row.model, row.aspect].append(value)
    prompts = {name: place for place, name in enumerate(sorted({row.prompt_id for row in rated}))}
    raters = {name: place for place, name in enumerate(sorted({row.rater for row in rated}))}
    sums = np.zeros((len(prompts), num_places, len(raters)))
    counts = np.zeros_like(sums)
    for row, value in centred:
        usual = by_item[row.model, row.aspect]
        place = prompts[row.prompt_id], row.position, raters[row.rater]
        sums[place] += value - sum(usual) / len(usual)
        counts[place] += 1
    # Rounded: a sum of what cancels exactly must tie.
    return np.asarray(np.divide(sums.round(12), counts, out=np.full(sums.shape, np.nan), where=counts > 0))
