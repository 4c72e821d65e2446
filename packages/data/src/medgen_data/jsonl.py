"""Read JSON files strictly: every complaint names the file, the line and the field."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from medgen_data.problems import DataError

RowT = TypeVar("RowT", bound=BaseModel)


def read_text_file(file: Path) -> str:
    """Return the text of a UTF-8 file; a byte order mark is dropped.

    Raises:
        DataError: If the file is missing or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file} is missing; check the folder and the file name") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "save the file again with encoding UTF-8"
        ) from None


def read_json_object(file: Path, model: type[RowT]) -> RowT:
    """Return the one object of a JSON file.

    Raises:
        DataError: If the file is missing, not JSON, or does not match `model`.
    """
    return _parse(read_text_file(file), model, str(file))


def iterate_jsonl(file: Path, model: type[RowT]) -> Iterator[tuple[int, RowT]]:
    """Yield the line number, from 1, and the object of every line that is not blank.

    Raises:
        DataError: If the file is missing, or a line is not JSON or does not match `model`.
    """
    # Not splitlines(): JSON strings may hold U+2028 and other marks that it takes for line ends.
    for number, line in enumerate(read_text_file(file).split("\n"), start=1):
        if line.strip():
            yield number, _parse(line, model, f"{file}, line {number}")


def _parse(text: str, model: type[RowT], place: str) -> RowT:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}; was the file cut off or edited by hand?") from None
    if not isinstance(value, dict):
        raise DataError(f"{place} must be a JSON object, got {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(row)"
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f", got {str(first['input'])[:80]!r}"
        raise DataError(f"{place}, field {field}: {message}{given}") from None
