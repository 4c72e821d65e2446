"""Read the tables that come with image collections: csv with comma, semicolon or tab."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen_data.jsonl import read_text_file
from medgen_data.problems import DataError, Problem
from medgen_data.records import FactValue

_DELIMITERS = (",", ";", "\t")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
# Without leading zeros: 007 is a code, not a quantity.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class TableRow:
    """One row: its line in the file, from 1, and its stripped cells by column."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table with a header; rows with too many or too few cells are listed in `problems`."""

    file: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    problems: tuple[Problem, ...]


def read_table(file: Path, required: Sequence[str]) -> Table:
    """Read a UTF-8 csv file; the delimiter is the one under which the header has the required columns.

    Args:
        file: Table with a header line.
        required: Columns that must be there, in any order and case; they get this spelling.

    Raises:
        DataError: If the file is missing, empty, not UTF-8, not csv, or lacks a required column.
    """
    text = read_text_file(file)
    header = text.split("\n", 1)[0].strip()
    if not header:
        raise DataError(f"{file} is empty; expected a header line with {', '.join(required)}")
    for delimiter in _DELIMITERS:
        columns = _columns(header, delimiter, required)
        if set(required) <= set(columns):
            break
    else:
        raise DataError(
            f"{file}, line 1: expected columns {', '.join(required)}, separated by comma, semicolon or tab; "
            f"got {header[:120]!r}"
        )
    if len(set(columns)) < len(columns) or "" in columns:
        raise DataError(f"{file}, line 1: columns must be named, each once, got {header[:120]!r}")
    return _read_rows(file, text, delimiter, columns)


def read_facts(table: Table, *, skip: Sequence[str]) -> list[dict[str, FactValue]]:
    """Return the facts of each row from all columns but `skip`; empty cells give no fact.

    A column has one type: integer or number if all its cells are, true/false if all are, else text.
    """
    columns = [column for column in table.columns if column not in skip]
    types = {column: _column_type([row.cells[column] for row in table.rows]) for column in columns}
    return [
        {column: _convert(row.cells[column], types[column]) for column in columns if row.cells[column]}
        for row in table.rows
    ]


def _columns(header: str, delimiter: str, required: Sequence[str]) -> list[str]:
    spelling = {column.lower(): column for column in required}
    cells = next(csv.reader([header], delimiter=delimiter), [])
    return [spelling.get(cell.strip().lower(), cell.strip()) for cell in cells]


def _read_rows(file: Path, text: str, delimiter: str, columns: Sequence[str]) -> Table:
    # strict: an open quotation mark is an error instead of swallowing the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, problems = [], []
    try:
        next(reader)
        for cells in reader:
            if len(cells) == len(columns):
                stripped = (cell.strip() for cell in cells)
                rows.append(TableRow(reader.line_num, dict(zip(columns, stripped, strict=True))))
            elif any(cell.strip() for cell in cells):
                detail = (
                    f"has {len(cells)} cells, expected {len(columns)}; quote cells that hold the delimiter"
                )
                problems.append(
                    Problem(file=file.name, row=reader.line_num, code="malformed-row", detail=detail)
                )
    except csv.Error as error:
        raise DataError(
            f"{file}, line {reader.line_num}: not valid csv ({error}); check the quotation marks"
        ) from None
    if not rows:
        raise DataError(f"{file} has a header but no usable rows; expected one row per image")
    return Table(file, tuple(columns), tuple(rows), tuple(problems))


def _column_type(cells: Sequence[str]) -> type:
    filled = [cell for cell in cells if cell]
    if all(_INTEGER.fullmatch(cell) for cell in filled):
        return int
    if all(_NUMBER.fullmatch(cell) and math.isfinite(float(cell)) for cell in filled):
        return float
    if all(cell.lower() in ("true", "false") for cell in filled):
        return bool
    return str


def _convert(cell: str, kind: type) -> FactValue:
    if kind is bool:
        return cell.lower() == "true"
    value: FactValue = kind(cell)
    return value
