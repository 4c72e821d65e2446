"""Automatic scores to compare with the experts: `scores.json` of a model, or a table by prompt and model."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgen_review.statistics.tables import Table
from medgen_review.study import StudyError

Array = NDArray[np.float64]

# As in Figure 6 of Prompt to Polyp; others follow by name.
_FIRST = ("fbd", "frechet", "agreement", "diversity", "fidelity")


@dataclass(frozen=True)
class ItemScore:
    """One score of one model.

    Attributes:
        item: Model, or `real`.
        prompt_id: Prompt it belongs to; None for all of them.
        score: Name.
        value: Number.
    """

    item: str
    prompt_id: str | None
    score: str
    value: float


def read_scores(item: str, file: Path) -> tuple[ItemScore, ...]:
    """Read the `scores.json` of one model: one value for all prompts; scores of single classes are left out.

    Raises:
        StudyError: If it is no such file or holds no score.
    """
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))["scores"]
        found = [(str(score["name"]), score["value"]) for score in scores]
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be read ({error.strerror}); give the scores.json of {item}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{file}: not a scores.json: expected an object with a list `scores` of objects with name and value"
        ) from error
    numbers = [
        ItemScore(item, None, name, float(value))
        for name, value in found
        if "/" not in name and isinstance(value, int | float) and math.isfinite(value)
    ]
    if not numbers:
        raise StudyError(f"{file}: holds no score with a value")
    return tuple(numbers)


def read_score_table(file: Path) -> tuple[ItemScore, ...]:
    """Read a CSV table with the columns prompt, item and one per score; an empty cell is no value.

    Raises:
        StudyError: If a column is missing or a cell is no number; names file, line and column.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = tuple(reader.fieldnames or ())
            rows = list(reader)
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{file}: not a CSV table in UTF-8 ({error})") from error
    names = [name for name in columns if name not in ("prompt", "item")]
    if not {"prompt", "item"} <= set(columns) or not names:
        raise StudyError(
            f"{file}: expected the columns prompt, item and one per score, got {', '.join(columns)}"
        )
    scores = []
    for line, row in enumerate(rows, start=2):
        for name in names:
            cell = (row[name] or "").strip()
            if cell:
                scores.append(ItemScore(row["item"], row["prompt"], name, _number(file, line, name, cell)))
    return tuple(scores)


def _number(file: Path, line: int, column: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise StudyError(f"{file}: line {line}: {column} must be a number or empty, got {cell!r}")
    return number


def scores_of_table(table: Table, scores: Iterable[ItemScore]) -> tuple[dict[str, Array], Sequence[str]]:
    """Arrange scores like a table of ranks.

    Args:
        table: Ranks.
        scores: A value for one prompt goes before the value for all.

    Returns:
        By score [P, M], nan where there is none; and warnings.

    Raises:
        StudyError: If a score is of something that was not ranked.
    """
    arranged: dict[str, Array] = {}
    unknown: set[str] = set()
    prompts = {prompt: index for index, prompt in enumerate(table.prompts)}
    for score in sorted(scores, key=lambda each: each.prompt_id is not None):
        if score.item not in table.items:
            raise StudyError(
                f"score {score.score!r} is of {score.item!r}, which was not ranked; ranked were "
                f"{', '.join(table.items) or 'no models'}"
            )
        values = arranged.setdefault(score.score, np.full((len(table.prompts), len(table.items)), np.nan))
        if score.prompt_id is None:
            values[:, table.items.index(score.item)] = score.value
        elif score.prompt_id in prompts:
            values[prompts[score.prompt_id], table.items.index(score.item)] = score.value
        else:
            unknown.add(score.prompt_id)
    warnings = []
    if unknown:
        warnings.append(
            f"Scores of {len(unknown)} prompt(s) that nobody ranked were left out, e.g. {min(unknown)!r}."
        )
    for name in [name for name, values in arranged.items() if np.isfinite(values).any(axis=0).sum() < 2]:
        del arranged[name]
        warnings.append(f"The score {name!r} is known of one model only and was not compared with the ranks.")
    order = sorted(arranged, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return {name: arranged[name] for name in order}, warnings
