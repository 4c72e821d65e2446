"""Data-set folders as this package needs them: which image was made for which prompt, or shows what.

A reader of its own: a folder with `metadata.jsonl`, whose rows name image files below it and, for a synthetic
image, the prompt it was drawn from.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medgen_review.study import StudyError


class _Generation(BaseModel):
    model_config = ConfigDict(frozen=True)  # further fields belong to whoever generated the image

    prompt: str


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class DatasetRow(BaseModel):
    """What matters here of a row of `metadata.jsonl`.

    Attributes:
        file_name: POSIX path below the folder.
        label: Class of the image.
        text: Captions, the fullest first.
        generation: Of a synthetic image.
    """

    model_config = ConfigDict(frozen=True)

    file_name: str = Field(min_length=1)
    label: str | None = None
    text: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    generation: _Generation | None = None

    @property
    def prompt(self) -> str | None:
        """The prompt it was drawn from, or else its first caption."""
        if self.generation is not None:
            return self.generation.prompt
        return self.text[0] if self.text else None


@dataclass(frozen=True)
class Dataset:
    """A data set: its folder and rows, in the order of the file."""

    folder: Path
    rows: tuple[DatasetRow, ...]

    def file_of(self, row: DatasetRow) -> Path:
        """Return the file of a row."""
        return self.folder / row.file_name

    def by_prompt(self) -> Mapping[str, Sequence[DatasetRow]]:
        """Return the rows of each prompt, with white space made plain; rows without one are left out."""
        grouped: dict[str, list[DatasetRow]] = defaultdict(list)
        for row in self.rows:
            if row.prompt is not None:
                grouped[plain(row.prompt)].append(row)
        return grouped


def plain(text: str) -> str:
    """Return a prompt with single spaces: what prompts are compared by."""
    return " ".join(text.split())


def read_dataset(folder: Path) -> Dataset:
    """Read the rows of a data-set folder.

    Raises:
        StudyError: If the folder or its table is missing, or a row is wrong; names file, row and field.
    """
    table = folder / "metadata.jsonl"
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; give a data-set folder (with metadata.jsonl)")
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise StudyError(
            f"{table}: cannot be read ({error.strerror}); is {folder} a data-set folder?"
        ) from error
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{table}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    rows = [_row(table, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise StudyError(f"{table}: has no rows; give a data set with images")
    return Dataset(folder, tuple(rows))


def _row(table: Path, number: int, line: str) -> DatasetRow:
    try:
        row = DatasetRow.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "row"
        raise StudyError(f"{table}: row {number}: {place}: {first['msg']}") from error
    except ValueError as error:
        raise StudyError(f"{table}: row {number}: not JSON ({error})") from error
    parts = PurePosixPath(row.file_name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in row.file_name or ":" in row.file_name:
        raise StudyError(
            f"{table}: row {number}: file_name: must be a path below the folder, like 'images/a.png', "
            f"got {row.file_name!r}"
        )
    return row
