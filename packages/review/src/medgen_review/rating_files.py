"""Ratings as rows: `ratings.jsonl`, what a study leaves behind and all that the statistics read.

One row per value given: `kind` is `rating` (an aspect of a set, 0 to `highest`) or `rank` (place of a set in the
global ranking of its page, 1 is best). Of values that were changed only the last is a row; every step on the way
is in the audit trail. `repeat` is 1 on the second showing of a page; attention pages are rows of kind
`attention`, with the value asked for in `expected`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgen_review.study import PromptKind, StudyError


class RatingRow(BaseModel):
    """One value that one rater gave.

    Attributes:
        study: Digest of the study.
        rater: Name of the rater, as it was enrolled.
        page: Place of the page in this rater's study, from 0.
        prompt_id: Of the page.
        prompt_kind: Original or rephrased.
        model: Model of the set, or `real`.
        letter: Letter it was shown under; empty for the references.
        position: Place on the page among the lettered sets, from 0; -1 for the references.
        kind: What the value is.
        aspect: Key of the aspect; empty for ranks.
        value: The rating or the rank.
        expected: Of an attention page: the value asked for.
        highest: Highest value of the scale.
        repeat: 0, or 1 on the second showing of a page.
        at: When it was given, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    rater: str
    page: int = Field(ge=0)
    prompt_id: str
    prompt_kind: PromptKind
    model: str
    letter: str
    position: int = Field(ge=-1)
    kind: Literal["rating", "rank", "attention"]
    aspect: str = ""
    value: int
    expected: int | None = None
    highest: int
    repeat: Literal[0, 1] = 0
    at: str


def read_ratings(file: Path) -> tuple[RatingRow, ...]:
    """Read `ratings.jsonl`.

    Raises:
        StudyError: If a row is no rating; names file, row and field.
    """
    rows = []
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be read ({error.strerror}); write it by `medgen review export`"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(RatingRow.model_validate(json.loads(line)))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise StudyError(f"{file}: row {number}: {place}: {first['msg']}") from error
        except ValueError as error:
            raise StudyError(f"{file}: row {number}: not JSON ({error})") from error
    return tuple(rows)


def ratings_only(rows: Iterable[RatingRow], *, repeats: bool = False) -> Sequence[RatingRow]:
    """Return the rows of kind `rating`, those of repeated pages only on demand."""
    return [row for row in rows if row.kind == "rating" and (repeats or row.repeat == 0)]
