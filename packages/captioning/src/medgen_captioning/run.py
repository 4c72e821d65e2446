"""Caption a data set: in order, resumable, every caption checked.

Rows are appended to a working file beside the target, one whole line per write, so a kill at any moment
leaves whole lines and at most one torn end, which the next run cuts off. When all records are done, the
finished captions replace the target in the order of the data set and the working file is deleted.

The `revision` of a row names the version of the method and a hash of everything its text depends on: the
configuration, the modality and the fingerprint of the data set. Rows of another revision or seed are never
mixed in: a working file of other settings is started afresh; finished captions of other settings are
somebody's work and are refused.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medgen_data.atomic import write_jsonl_atomic
from medgen_data.captions import CaptionRow, read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.images import ImageError, decode_image
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord
from pydantic import BaseModel, ConfigDict, Field

from medgen_captioning.measured import measured_caption
from medgen_captioning.prompts import simple_caption

Method = Literal["empty", "measured", "simple"]

# Raised with every change that gives another text for the same pixels.
_VERSION = 1


class CaptionConfig(BaseModel):
    """How to caption.

    Attributes:
        method: `simple` names modality and class; `measured` adds what is measured in the pixels; `empty`
            captions nothing, for training without text.
        modality: E.g. `endoscopic`; None takes that of the data set's card.
        max_words: Longest caption.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "measured"
    modality: str | None = Field(default=None, min_length=1)
    max_words: int = Field(default=100, ge=5)


@dataclass(frozen=True)
class CaptionRun:
    """What a run did.

    Attributes:
        num_written: Captions made by this run.
        num_reused: Captions that an earlier run had made.
        problems: Images without a caption, and why; another run tries them again.
    """

    num_written: int
    num_reused: int
    problems: tuple[Problem, ...]


def caption_dataset(
    dataset: ImageDataset,
    captions_file: Path,
    config: CaptionConfig,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption every record of a data set, or go on where an interrupted run stopped.

    Args:
        dataset: Data set, or a selection of one.
        captions_file: Target; written whole, once, at the end.
        config: How to caption.
        seed: Recorded in each row. The methods so far draw nothing at random.
        on_progress: Called with the numbers of records done and in all, after each record.

    Raises:
        DataError: If `captions_file` holds captions of other settings or of records that are not in
            `dataset`, or no image could be captioned.
    """
    modality = config.modality or dataset.card.modality
    revision = _revision(dataset, config, modality)
    finished = _reusable_rows(dataset, captions_file, config.method, revision, seed)
    journal = _Journal(captions_file.with_name(f".{captions_file.name}.working"), revision, seed)
    rows = {**journal.rows, **finished}
    num_reused, problems = sum(record.record_id in rows for record in dataset.records), []
    with journal:
        for number, record in enumerate(dataset.records, start=1):
            if record.record_id not in rows:
                outcome = _caption_record(dataset, record, config, modality, revision, seed)
                if isinstance(outcome, Problem):
                    problems.append(outcome)
                else:
                    journal.append(outcome)
                    rows[record.record_id] = outcome
            if on_progress is not None:
                on_progress(number, len(dataset.records))
    ordered = [rows[record.record_id] for record in dataset.records if record.record_id in rows]
    if not ordered:
        raise DataError(f"none of {len(problems)} images could be captioned; the first: {problems[0]}")
    if len(ordered) > len(finished):
        write_jsonl_atomic(captions_file, (row.model_dump(mode="json") for row in ordered))
    journal.remove()
    return CaptionRun(len(ordered) - num_reused, num_reused, tuple(problems))


def check_caption(text: str, *, opening: str, max_words: int) -> tuple[str, ...]:
    """Return the names of the checks that a caption passed: all of them.

    Args:
        text: The caption.
        opening: What it must begin with.
        max_words: Most words it may have.

    Raises:
        ValueError: If a check fails; the message says which.
    """
    if not text.startswith(opening):
        raise ValueError(f"caption must begin with {opening!r}, got {text[: len(opening)]!r}")
    if len(text.split()) > max_words:
        raise ValueError(
            f"caption must have at most {max_words} words, got {len(text.split())}; shorten the label"
        )
    return ("opening", "max-words")


def _caption_record(
    dataset: ImageDataset, record: ImageRecord, config: CaptionConfig, modality: str, revision: str, seed: int
) -> CaptionRow | Problem:
    opening = simple_caption(modality, record.label)
    checks: tuple[str, ...] = ()
    text = ""
    try:
        match config.method:
            case "measured":
                image = decode_image(dataset.image_file(record))
                text = measured_caption(image, modality, record.label, max_words=config.max_words)
            case "simple":
                text = opening
            case "empty":
                pass
        if config.method != "empty":
            checks = check_caption(text, opening=opening, max_words=config.max_words)
    except ImageError as error:
        return Problem(file=record.file_name, row=None, field=None, code=error.code, detail=str(error))
    except ValueError as error:
        return Problem(file=record.file_name, row=None, field="label", code="bad-caption", detail=str(error))
    return CaptionRow(
        record_id=record.record_id,
        text=text,
        method=config.method,
        revision=revision,
        seed=seed,
        checks=checks,
    )


def _revision(dataset: ImageDataset, config: CaptionConfig, modality: str) -> str:
    causes = [config.model_dump(mode="json"), modality, dataset.card.fingerprint]
    return f"{_VERSION}+{hashlib.sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:16]}"


def _reusable_rows(
    dataset: ImageDataset, captions_file: Path, method: str, revision: str, seed: int
) -> dict[str, CaptionRow]:
    if not captions_file.exists():
        return {}
    rows = read_captions(captions_file)
    other = next((row for row in rows.values() if (row.revision, row.seed) != (revision, seed)), None)
    if other is not None:
        raise DataError(
            f"{captions_file} holds captions of other settings or another data set: method {other.method}, "
            f"revision {other.revision}, seed {other.seed}, but now method {method}, revision {revision}, "
            f"seed {seed}; choose another file or delete this one"
        )
    strangers = rows.keys() - {record.record_id for record in dataset.records}
    if strangers:
        raise DataError(
            f"{captions_file} holds captions of {len(strangers)} records that are not selected now, e.g. "
            f"{min(strangers)}; choose another file for this selection"
        )
    return rows


class _Journal:
    """The working file: whole rows of one revision and seed, appended one write each."""

    def __init__(self, file: Path, revision: str, seed: int) -> None:
        self._file = file
        self._descriptor = -1
        self.rows: dict[str, CaptionRow] = {}
        whole = 0
        for end, line in _whole_lines(file):
            row = CaptionRow.model_validate_json(line)
            if (row.revision, row.seed) != (revision, seed):
                self.rows, whole = {}, 0
                break
            self.rows[row.record_id] = row
            whole = end
        if file.exists():
            os.truncate(file, whole)

    def __enter__(self) -> "_Journal":
        self._file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._file, flags, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, row: CaptionRow) -> None:
        """Add one row. A kill cannot undo it; only a power cut can, and then the row is made again."""
        rest = memoryview((row.model_dump_json() + "\n").encode())
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def remove(self) -> None:
        """Delete the working file: its rows are in the finished captions."""
        self._file.unlink(missing_ok=True)


def _whole_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that was written to its end, and where it ends."""
    content = file.read_bytes() if file.exists() else b""
    start = 0
    while (end := content.find(b"\n", start) + 1) > 0:
        yield end, content[start:end]
        start = end
