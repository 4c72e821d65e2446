"""Rows of ratings as a table of numbers.

Shapes: A aspects, P prompts, M items (what is rated or ranked: models, real images), R raters. A value that was
not given is nan.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgen_review.rating_files import RatingRow
from medgen_review.study import REAL, StudyError

Array = NDArray[np.float64]

RANK = "rank"


@dataclass(frozen=True)
class Table:
    """Values of all raters.

    Attributes:
        aspects: What was asked; `(RANK,)` in a table of ranks.
        prompts: Ids, sorted.
        items: Models in the order of their names, then real images.
        raters: Names, sorted.
        values: Last value given, [A, P, M, R].
    """

    aspects: tuple[str, ...]
    prompts: tuple[str, ...]
    items: tuple[str, ...]
    raters: tuple[str, ...]
    values: Array


def rating_table(rows: Iterable[RatingRow]) -> Table:
    """Arrange the ratings of first showings.

    Raises:
        StudyError: If a rater gave two values for one place.
    """
    return _table([row for row in rows if row.kind == "rating" and row.repeat == 0])


def rank_table(rows: Iterable[RatingRow]) -> Table:
    """Arrange the ranks of first showings; 1 is best.

    Raises:
        StudyError: If a rater gave two ranks for one place.
    """
    return _table([row for row in rows if row.kind == "rank" and row.repeat == 0])


def _table(rows: Sequence[RatingRow]) -> Table:
    aspects = tuple(dict.fromkeys(row.aspect or RANK for row in rows))
    prompts = tuple(sorted({row.prompt_id for row in rows}))
    items = tuple(sorted({row.model for row in rows}, key=lambda name: (name == REAL, name)))
    raters = tuple(sorted({row.rater for row in rows}))
    places = [
        {name: index for index, name in enumerate(names)} for names in (aspects, prompts, items, raters)
    ]
    values = np.full((len(aspects), len(prompts), len(items), len(raters)), np.nan)
    for row in rows:
        keys = (row.aspect or RANK, row.prompt_id, row.model, row.rater)
        place = tuple(index[key] for index, key in zip(places, keys, strict=True))
        if not np.isnan(values[place]):
            raise StudyError(
                f"rater {row.rater!r} gave {keys[0]!r} of {keys[2]!r} for prompt {row.prompt_id!r} twice; "
                "only the last value of a place is a row: export the ratings again"
            )
        values[place] = row.value
    return Table(aspects, prompts, items, raters, values)


def prompt_means(values: Array) -> Array:
    """Return the mean over raters, [P, M] of [P, M, R]; nan where nobody gave a value."""
    given = np.isfinite(values)
    counts = given.sum(axis=-1)
    sums = np.where(given, values, 0.0).sum(axis=-1)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))
