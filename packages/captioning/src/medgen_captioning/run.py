"""Caption a data set: in order, resumable, every caption checked.

The methods that ask a model are in `describe`; the others are here.

Rows are appended to a working file beside the target, one whole line per write, so a kill at any moment
leaves whole lines and at most one torn end, which the next run cuts off. When all records are done, the
finished captions replace the target in the order of the data set and the working file is deleted.

Rows of another revision or seed are never mixed in: a working file of other settings is started afresh;
finished captions of other settings are somebody's work and are refused.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from medgen_data.atomic import write_jsonl_atomic
from medgen_data.captions import CaptionRow
from medgen_data.image_folder import ImageDataset
from medgen_data.images import ImageError, decode_image
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord

from medgen_captioning.config import CaptionConfig
from medgen_captioning.describe import Access, describe_dataset
from medgen_captioning.finished import CaptionRun, reusable_rows, revision_of, take_shard
from medgen_captioning.measured import measured_caption
from medgen_captioning.prompts import simple_caption

__all__ = ["Access", "CaptionConfig", "CaptionRun", "caption_dataset", "check_caption"]


def caption_dataset(
    dataset: ImageDataset,
    captions_file: Path,
    config: CaptionConfig,
    *,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    access: Access | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption every record of a data set, or go on where an interrupted run stopped.

    Args:
        dataset: Data set, or a selection of one.
        captions_file: Target; written whole, once, at the end.
        config: How to caption.
        seed: Recorded in each row; models draw their words by it.
        shard: (i, n): caption only every n-th record from the i-th, each shard to its own file.
        access: What a model may be reached by, and where its answers are kept.
        on_progress: Called with the numbers of records done and in all, after each record.

    Raises:
        DataError: If `captions_file` holds captions of other settings or of records that are not in
            `dataset`, or no image could be captioned.
    """
    dataset = take_shard(dataset, shard)
    if config.method in ("server", "vision-language"):
        return describe_dataset(
            dataset, captions_file, config, seed=seed, access=access or Access(), on_progress=on_progress
        )
    modality = config.modality or dataset.card.modality
    revision = revision_of(dataset, config, modality)
    finished = reusable_rows(dataset, captions_file, config.method, revision, seed)
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
