"""Captions that somebody else wrote: `.csv` or `.jsonl` with a text for each file name or record id."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medgen_data.fingerprint import file_sha256
from medgen_data.importers.tables import read_table
from medgen_data.jsonl import iterate_jsonl
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord
from pydantic import BaseModel, ConfigDict


class _Row(BaseModel):
    # Rows of `medgen caption` and of image folders say more than is taken over here.
    model_config = ConfigDict(frozen=True, extra="ignore")

    text: str
    record_id: str | None = None
    file_name: str | None = None


@dataclass(frozen=True)
class GivenTexts:
    """The texts of a file.

    Attributes:
        file: Where they are from.
        sha256: Of the file.
        texts: By record id, file name, or file name without folder.
        problems: Rows that cannot be used.
    """

    file: Path
    sha256: str
    texts: Mapping[str, str]
    problems: tuple[Problem, ...]

    def text_of(self, record: ImageRecord) -> str:
        """Return the text of a record.

        Raises:
            ValueError: If the file has none.
        """
        path = PurePosixPath(record.file_name)
        for name in (record.record_id, record.file_name, path.name, path.stem):
            if name in self.texts:
                return self.texts[name]
        raise ValueError(
            f"{self.file} has no text for record {record.record_id} or file {record.file_name}; add a row"
        )


def read_given_texts(file: Path) -> GivenTexts:
    """Read the texts of a file: csv columns or JSON fields `text` and `file_name` or `record_id`.

    Raises:
        DataError: If it is missing, malformed, of another kind, or gives one image two different texts.
    """
    if file.suffix.lower() == ".jsonl":
        rows, problems = _json_rows(file)
    elif file.suffix.lower() == ".csv":
        rows, problems = _table_rows(file)
    else:
        raise DataError(f"{file}: captions are taken from a .csv or a .jsonl file")
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, name, text in rows:
        if texts.setdefault(name, text) != text:
            raise DataError(
                f"{file}, line {line}: {name} has another text in line {lines[name]}; keep one of the two"
            )
        lines.setdefault(name, line)
    return GivenTexts(file, file_sha256(file), texts, tuple(problems))


def _json_rows(file: Path) -> tuple[list[tuple[int, str, str]], tuple[Problem, ...]]:
    rows = []
    for line, row in iterate_jsonl(file, _Row):
        name = row.record_id or row.file_name
        if not name:
            raise DataError(f"{file}, line {line}: needs record_id or file_name beside text")
        rows.append((line, name, row.text))
    return rows, ()


def _table_rows(file: Path) -> tuple[list[tuple[int, str, str]], tuple[Problem, ...]]:
    header = _header(file)
    key = "record_id" if "record_id" in header else "file_name"
    table = read_table(file, (key, "text"))
    problems = list(table.problems)
    rows = []
    for row in table.rows:
        if row.cells[key]:
            rows.append((row.line, row.cells[key], row.cells["text"]))
        else:
            detail = f"names no image in {key}; fill it in"
            problems.append(Problem(file=file.name, row=row.line, field=key, code="no-name", detail=detail))
    return rows, tuple(problems)


def _header(file: Path) -> str:
    if not file.is_file():
        raise DataError(f"{os.fspath(file)} is missing; give the file with the captions")
    with file.open("rb") as stream:
        return stream.readline(4096).decode("utf-8-sig", errors="replace").lower()
