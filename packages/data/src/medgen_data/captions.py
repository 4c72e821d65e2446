"""Captions of a data set, kept beside it and joined by `record_id`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from medgen_data.jsonl import iterate_jsonl
from medgen_data.problems import DataError
from medgen_data.records import RecordId


class CaptionRow(BaseModel):
    """The caption of one record; a row of `captions.jsonl`.

    Attributes:
        text: The caption; may be empty, for unconditional training.
        method: How it was made, e.g. `measured`.
        model: Model that wrote it, None if no model was used.
        revision: Version of the method or of the model.
        checks: Names of the checks the text passed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    record_id: RecordId
    text: str
    method: str
    model: str | None = None
    revision: str
    seed: int
    checks: tuple[str, ...] = ()


def read_captions(captions_file: Path) -> dict[str, CaptionRow]:
    """Return the captions of a file by record id, in the order of the file.

    Raises:
        DataError: If the file is missing, a line does not match the format (the message names the
            line and the field), or two lines caption the same record.
    """
    rows: dict[str, CaptionRow] = {}
    lines: dict[str, int] = {}
    for line, row in iterate_jsonl(captions_file, CaptionRow):
        if row.record_id in rows:
            raise DataError(
                f"{captions_file}, line {line}, field record_id: {row.record_id} is captioned twice, "
                f"first in line {lines[row.record_id]}; keep one of the two"
            )
        rows[row.record_id] = row
        lines[row.record_id] = line
    return rows
