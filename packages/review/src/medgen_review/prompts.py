"""The prompt list of a study: from a file, or what all synthetic sets have in common."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from medgen_review.datasets import Dataset, plain
from medgen_review.study import PromptKind, StudyError, StudyPrompt


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    kind: PromptKind = "original"
    original: str | None = None

    @field_validator("prompt")
    @classmethod
    def _is_text(cls, prompt: str) -> str:
        if not plain(prompt):
            raise ValueError("is empty; write the prompt or remove the row")
        return plain(prompt)


def read_prompts(file: Path, *, alternating: bool = False) -> tuple[StudyPrompt, ...]:
    """Read a prompt list.

    Args:
        file: `.txt` with a prompt per line, or `.csv` or `.jsonl` with the columns `prompt` and optionally `kind`
            (`original` or `rephrased`) and `original` (the prompt that a rephrased one says again).
        alternating: The list alternates as in the paper, section 5.1.1: a prompt at an even index (0, 2 ..) is
            an original, the one after it says it in other words. Only for lists without `kind`.

    Raises:
        StudyError: If the file cannot be read, a row is wrong, or a prompt comes twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: the prompt list cannot be read ({error})") from error
    given: Sequence[tuple[int, object]]
    match file.suffix.lower():
        case ".txt":
            given = [
                (number, {"prompt": line}) for number, line in enumerate(text.split("\n"), 1) if line.strip()
            ]
        case ".csv":
            given = _csv_rows(file, text)
        case ".jsonl":
            given = _jsonl_rows(file, text)
        case suffix:
            raise StudyError(f"{file}: a prompt list is .txt, .csv or .jsonl, got {suffix or 'no suffix'}")
    rows = [(number, _row(file, number, row)) for number, row in given]
    if not rows:
        raise StudyError(f"{file}: holds no prompt")
    if alternating:
        return _alternating(file, [row for _, row in rows])
    return _with_ids(file, rows)


def common_prompts(sets: Mapping[str, Dataset], *, alternating: bool = False) -> tuple[StudyPrompt, ...]:
    """Return the prompts that every synthetic set has, in the order of the first set.

    Raises:
        StudyError: If no prompt is in all of them.
    """
    texts = [data.by_prompt() for data in sets.values()]
    shared = [text for text in texts[0] if all(text in others for others in texts)]
    if not shared:
        raise StudyError(
            f"the sets of {', '.join(sets)} have no prompt in common; were they drawn from the same prompt list?"
        )
    rows = [_Row(prompt=text) for text in shared]
    if alternating:
        return _alternating(Path("prompts of the sets"), rows)
    return _with_ids(Path("prompts of the sets"), list(enumerate(rows, 1)))


def _alternating(file: Path, rows: Sequence[_Row]) -> tuple[StudyPrompt, ...]:
    if len(rows) % 2 or any(row.model_fields_set != {"prompt"} for row in rows):
        raise StudyError(
            f"{file}: an alternating list has an even number of prompts and no columns kind and original, got "
            f"{len(rows)} prompts; write kind and original as columns instead"
        )
    paired = []
    for index, row in enumerate(rows):
        original = {"kind": "rephrased", "original": rows[index - 1].prompt} if index % 2 else {}
        paired.append((index + 1, _Row.model_validate({"prompt": row.prompt, **original})))
    return _with_ids(file, paired)


def _with_ids(file: Path, rows: Sequence[tuple[int, _Row]]) -> tuple[StudyPrompt, ...]:
    width = max(3, len(str(len(rows))))
    ids: dict[str, str] = {}
    for index, (number, row) in enumerate(rows):
        if row.prompt in ids:
            raise StudyError(f"{file}: row {number}: prompt: {row.prompt!r} comes twice; remove one")
        ids[row.prompt] = f"p{index:0{width}d}"
    prompts = []
    for number, row in rows:
        original = None if row.original is None else plain(row.original)
        if original is not None and original not in ids:
            raise StudyError(f"{file}: row {number}: original: {original!r} is no prompt of this list")
        if original is not None and row.kind != "rephrased":
            raise StudyError(f"{file}: row {number}: kind: a prompt with an original must be 'rephrased'")
        original_id = None if original is None else ids[original]
        prompts.append(
            StudyPrompt(prompt_id=ids[row.prompt], text=row.prompt, kind=row.kind, original_id=original_id)
        )
    return tuple(prompts)


def _csv_rows(file: Path, text: str) -> list[tuple[int, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        # An empty cell says nothing: the default holds.
        return [
            (reader.line_num, {key or "(surplus cell)": value for key, value in row.items() if value})
            for row in reader
        ]
    except csv.Error as error:
        raise StudyError(f"{file}: row {reader.line_num}: {error}") from error


def _jsonl_rows(file: Path, text: str) -> list[tuple[int, object]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except ValueError as error:
                raise StudyError(f"{file}: row {number}: not JSON ({error})") from error
    return rows


def _row(file: Path, number: int, row: object) -> _Row:
    try:
        return _Row.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "row"
        message = first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{file}: row {number}: {place}: {message}") from error
