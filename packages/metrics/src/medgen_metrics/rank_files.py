"""Tables of scores, and of the ranks that experts gave to the same things.

Scores: one row for each prompt and item (a model, an image), with the columns `prompt`, `item` and one column for
each metric. Ranks: `prompt`, `item`, `rank` (1 is best), and `rater` if there are several experts. Both are CSV or
JSONL; rows are joined by prompt and item. An empty cell is a judgement or a score that does not exist.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Place = tuple[str, str]  # prompt, item
_Row = tuple[str, Mapping[str, Any]]  # where it stands, and its cells


class RankFileError(ValueError):
    """A table that cannot be used; names the file, the line and the column."""


@dataclass(frozen=True)
class ScoreTable:
    """Metrics of everything that was ranked."""

    metrics: tuple[str, ...]
    values: Mapping[Place, Mapping[str, float]]  # nan: no score
    sha256: str


@dataclass(frozen=True)
class RankTable:
    """What the experts said."""

    ranks: Mapping[Place, Mapping[str, float]]  # by rater
    sha256: str

    @property
    def raters(self) -> tuple[str, ...]:
        """All raters, sorted."""
        return tuple(sorted({rater for given in self.ranks.values() for rater in given}))


def read_score_table(table_file: Path, *, metrics: Sequence[str] = ()) -> ScoreTable:
    """Read the scores.

    Args:
        table_file: `.csv` or `.jsonl`.
        metrics: Columns to read; by default all but `prompt` and `item`.

    Raises:
        FileNotFoundError: If there is no such file.
        RankFileError: If a column is missing, a value is no number, or a prompt has an item twice.
    """
    rows, columns, sha256 = _read_rows(table_file, ("prompt", "item"))
    wanted = tuple(metrics) or tuple(column for column in columns if column not in {"prompt", "item"})
    missing = [metric for metric in wanted if metric not in columns]
    if missing or not wanted:
        raise RankFileError(
            f"{table_file}: no column of a metric {', '.join(missing)}; there are {', '.join(columns)}"
        )
    values: dict[Place, dict[str, float]] = {}
    for where, row in rows:
        place = _place(row, where)
        if place in values:
            raise RankFileError(f"{where}: prompt {place[0]!r} has item {place[1]!r} twice")
        values[place] = {metric: _number(row.get(metric), f"{where}: {metric}") for metric in wanted}
    return ScoreTable(wanted, values, sha256)


def read_rank_table(table_file: Path) -> RankTable:
    """Read the ranks that experts gave.

    Args:
        table_file: `.csv` or `.jsonl`.

    Raises:
        FileNotFoundError: If there is no such file.
        RankFileError: If a column is missing, a rank is no number from 1, or a rater judged an item twice.
    """
    rows, _, sha256 = _read_rows(table_file, ("prompt", "item", "rank"))
    ranks: dict[Place, dict[str, float]] = {}
    for where, row in rows:
        rater = str(row.get("rater") or "").strip()
        rank = _number(row.get("rank"), f"{where}: rank")
        if rank < 1:
            raise RankFileError(f"{where}: rank must be 1 (best) or more, got {rank:g}")
        given = ranks.setdefault(_place(row, where), {})
        if rater in given:
            prompt, item = _place(row, where)
            by = f" by {rater!r}" if rater else "; name the experts in a column `rater`"
            raise RankFileError(f"{where}: prompt {prompt!r} has item {item!r} ranked twice{by}")
        if not math.isnan(rank):
            given[rater] = rank
    return RankTable(ranks, sha256)


def _read_rows(table_file: Path, needed: Sequence[str]) -> tuple[list[_Row], tuple[str, ...], str]:
    """Return rows with where they stand, all columns in order, and the hash of the file."""
    if not table_file.is_file():
        raise FileNotFoundError(f"{table_file}: no such file; expected a .csv or .jsonl table")
    content = table_file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RankFileError(f"{table_file}: is not UTF-8 ({error}); write it again") from error
    match table_file.suffix.lower():
        case ".csv":
            rows = _csv_rows(table_file, text)
        case ".jsonl":
            rows = _jsonl_rows(table_file, text)
        case suffix:
            raise RankFileError(f"{table_file}: expected .csv or .jsonl, got {suffix or 'no suffix'}")
    columns = tuple(dict.fromkeys(column for _, row in rows for column in row))
    missing = [column for column in needed if column not in columns]
    if missing:
        raise RankFileError(
            f"{table_file}: has no column {', '.join(missing)}; expected {', '.join(needed)}, got "
            f"{', '.join(columns) or 'no rows'}"
        )
    return rows, columns, hashlib.sha256(content).hexdigest()


def _csv_rows(table_file: Path, text: str) -> list[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[_Row] = []
    try:
        for row in reader:
            where = f"{table_file}, line {reader.line_num}"
            # csv files surplus cells under None, and fills missing ones with None.
            if None in row or None in row.values():
                raise RankFileError(
                    f"{where}: expected {len(reader.fieldnames or ())} cells as in the header"
                )
            rows.append((where, row))
    except csv.Error as error:
        raise RankFileError(f"{table_file}, line {reader.line_num}: is not CSV ({error})") from error
    return rows


def _jsonl_rows(table_file: Path, text: str) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{table_file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RankFileError(f"{where}: is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise RankFileError(f"{where}: expected an object, got {line[:80]}")
        rows.append((where, row))
    return rows


def _place(row: Mapping[str, Any], where: str) -> Place:
    prompt, item = (
        str(row.get(column) if row.get(column) is not None else "") for column in ("prompt", "item")
    )
    if not prompt.strip() or not item.strip():
        raise RankFileError(f"{where}: prompt and item must not be empty, got {prompt!r} and {item!r}")
    return prompt.strip(), item.strip()


def _number(value: Any, where: str) -> float:
    """Return a number; nan for an empty cell."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RankFileError(f"{where}: expected a finite number or an empty cell, got {value!r}")
    return number
