"""Paraphrases on disk: the authors' table `Filename,Prompt,Paraphrase`, and a run that can be interrupted."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen_data.atomic import write_jsonl_atomic, write_text_atomic
from medgen_data.importers.tables import read_table
from medgen_data.problems import DataError, Problem
from pydantic import BaseModel, ConfigDict, ValidationError

from medgen_captioning.paraphrasing.judge import Paraphraser, judge, judge_all
from medgen_captioning.paraphrasing.strategies import ImageText, ParaphraseRow, pair

_COLUMNS = ("Filename", "Prompt", "Paraphrase")


@dataclass(frozen=True)
class ParaphraseRun:
    """What a run did.

    Attributes:
        num_written: Prompts paraphrased by this run.
        num_reused: Prompts that an interrupted run had done.
        problems: Rejected paraphrases, and prompts left without any; also in the file beside the table.
    """

    num_written: int
    num_reused: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class ParaphrasePlan:
    """What a run would do.

    Attributes:
        num_images: Rows of the table.
        num_prompts: Unique prompts.
        num_done: Of these, done by an interrupted run.
        num_wanted: Paraphrases that the run would ask for.
    """

    num_images: int
    num_prompts: int
    num_done: int
    num_wanted: int


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Settings(_Row):
    """First line of a working file."""

    method: str
    num: int | None
    seed: int


class _Done(_Row):
    """What a run found for one prompt when it asked for `wanted`."""

    prompt: str
    wanted: int
    accepted: tuple[str, ...]
    rejected: tuple[tuple[str, tuple[str, ...]], ...]


def read_paraphrases(file: Path, *, judged: bool = True) -> tuple[list[ParaphraseRow], list[Problem]]:
    """Read a table of paraphrases; comma, semicolon and tab all separate.

    Args:
        file: UTF-8 csv with the columns Filename, Prompt and Paraphrase.
        judged: Leave out paraphrases that state something else than their prompt.

    Returns:
        The good rows, and what is wrong with each other one: malformed, an empty cell, other facts.

    Raises:
        DataError: If the file is missing, is not csv, lacks a column or has no usable row.
    """
    table = read_table(file, _COLUMNS)
    rows, problems = [], list(table.problems)
    for row in table.rows:
        empty = [column for column in _COLUMNS if not row.cells[column]]
        if empty:
            detail = "is empty; fill it or drop the row"
            problems.append(
                Problem(file=file.name, row=row.line, field=empty[0], code="empty-cell", detail=detail)
            )
            continue
        prompt, paraphrase = row.cells["Prompt"], row.cells["Paraphrase"]
        verdict = judge(prompt, paraphrase) if judged else None
        if verdict is not None and not verdict.accepted:
            detail = f"{paraphrase!r} is not taken for {prompt!r}: {'; '.join(verdict.reasons)}"
            problems.append(
                Problem(file=file.name, row=row.line, field="Paraphrase", code="other-facts", detail=detail)
            )
            continue
        rows.append(ParaphraseRow(row.cells["Filename"], prompt, paraphrase))
    return rows, problems


def write_paraphrases(file: Path, rows: Sequence[ParaphraseRow]) -> None:
    """Replace a table of paraphrases as a whole, comma separated."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((row.file_name, row.prompt, row.paraphrase) for row in rows)
    write_text_atomic(file, text.getvalue())


def write_image_texts(file: Path, texts: Sequence[ImageText]) -> None:
    """Replace a table of prompts as a whole, `Prompt;Filename` as in MedVQA-GI."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    writer.writerow(("Prompt", "Filename"))
    writer.writerows((image.text, image.file_name) for image in texts)
    write_text_atomic(file, text.getvalue())


def paraphrase_rows(
    images: Sequence[ImageText],
    paraphraser: Paraphraser,
    file: Path,
    *,
    method: str,
    seed: int,
    num: int | None = None,
    batch_size: int = 16,
    why_none: Callable[[str], str | None] = lambda _: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ParaphraseRun:
    """Give each prompt of each image a paraphrase, and write the table; goes on where a killed run stopped.

    Each prompt is paraphrased once, whatever the number of its images. Beside the table lies
    `*.rejected.jsonl` with everything that was not taken, and why.

    Args:
        images: Prompts of images.
        paraphraser: Writes; what it writes is judged here.
        file: The table, written whole at the end.
        method: Name and version of the paraphraser with its settings; work of another method is not mixed in.
        seed: Of the paraphraser and of which image gets which paraphrase.
        num: Paraphrases per prompt, all of which are rows; None asks for as many as the prompt has images.
        batch_size: Prompts given to the paraphraser at once.
        why_none: Says why the paraphraser wrote nothing for a prompt, if it knows.
        on_progress: Called with the numbers of prompts done and in all, after each batch.

    Raises:
        DataError: If no prompt got any paraphrase.
    """
    counts = Counter(image.text for image in images)
    settings = _Settings(method=method, num=num, seed=seed)
    journal = _Journal(_working_file(file), settings)
    done = _still_good(journal.finished, counts, num)
    num_reused = len(done)
    with journal:
        for wanted, prompts in _batches([p for p in counts if p not in done], counts, num, batch_size):
            for entry in _paraphrase(paraphraser, prompts, wanted, seed):
                journal.append(entry)
                done[entry.prompt] = entry
            if on_progress is not None:
                on_progress(len(done), len(counts))
    accepted = {prompt: entry.accepted for prompt, entry in done.items()}
    rows, _ = pair(images, accepted, seed, all_of_them=num is not None)
    problems = _problems(file, [done[prompt] for prompt in counts], why_none)
    if not rows:
        raise DataError(
            f"none of {len(counts)} prompts could be paraphrased" + "".join(f"; {p}" for p in problems[:1])
        )
    write_jsonl_atomic(
        file.with_suffix(".rejected.jsonl"), (problem.model_dump(mode="json") for problem in problems)
    )
    write_paraphrases(file, rows)
    journal.remove()
    return ParaphraseRun(len(done) - num_reused, num_reused, tuple(problems))


def plan_paraphrases(
    images: Sequence[ImageText], file: Path, *, method: str, seed: int, num: int | None = None
) -> ParaphrasePlan:
    """Return what `paraphrase_rows` would do with the same arguments; nothing is written."""
    counts = Counter(image.text for image in images)
    entries, _ = _read_journal(_working_file(file), _Settings(method=method, num=num, seed=seed))
    done = _still_good(entries, counts, num)
    wanted = sum(num or count for prompt, count in counts.items() if prompt not in done)
    return ParaphrasePlan(len(images), len(counts), len(done), wanted)


def _still_good(entries: Sequence[_Done], counts: Counter[str], num: int | None) -> dict[str, _Done]:
    """Return by prompt what an interrupted run found.

    Not where it asked for fewer than are wanted now, and not where it found none: a server may have been down.
    """
    return {
        entry.prompt: entry
        for entry in entries
        if entry.accepted and entry.prompt in counts and entry.wanted >= (num or counts[entry.prompt])
    }


def _batches(
    prompts: Sequence[str], counts: Counter[str], num: int | None, batch_size: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield prompts that want equally many paraphrases together."""
    wanted: dict[int, list[str]] = {}
    for prompt in prompts:
        wanted.setdefault(num or counts[prompt], []).append(prompt)
    for number, group in wanted.items():
        for start in range(0, len(group), batch_size):
            yield number, group[start : start + batch_size]


def _paraphrase(paraphraser: Paraphraser, prompts: list[str], num: int, seed: int) -> list[_Done]:
    judged = judge_all(paraphraser, prompts, num, seed)
    rejected: dict[str, list[tuple[str, tuple[str, ...]]]] = {prompt: [] for prompt in prompts}
    for rejection in judged.rejections:
        rejected[rejection.prompt].append((rejection.paraphrase, rejection.reasons))
    return [
        _Done(prompt=prompt, wanted=num, accepted=texts, rejected=tuple(rejected[prompt]))
        for prompt, texts in zip(prompts, judged.accepted, strict=True)
    ]


def _problems(file: Path, entries: Sequence[_Done], why_none: Callable[[str], str | None]) -> list[Problem]:
    problems = []
    for entry in entries:
        for text, reasons in entry.rejected:
            detail = f"{text!r} is not taken for {entry.prompt!r}: {'; '.join(reasons)}"
            problems.append(Problem(file=file.name, field="Paraphrase", code="rejected", detail=detail))
        if not entry.accepted:
            why = why_none(entry.prompt)
            reason = f" ({why})" if why else ""
            detail = f"no paraphrase of {entry.prompt!r} could be taken{reason}; its images are left out"
            problems.append(Problem(file=file.name, field="Prompt", code="no-paraphrase", detail=detail))
    return problems


def _working_file(file: Path) -> Path:
    return file.with_name(f".{file.name}.working")


def _read_journal(file: Path, settings: _Settings) -> tuple[list[_Done], int]:
    """Return the entries of a working file and the length of its whole lines; none if it is of other settings."""
    content = file.read_bytes() if file.exists() else b""
    length = content.rfind(b"\n") + 1  # a kill may have cut the last line
    lines = content[:length].splitlines()
    try:
        if not lines or _Settings.model_validate_json(lines[0]) != settings:
            return [], 0
        return [_Done.model_validate_json(line) for line in lines[1:]], length
    except ValidationError:
        return [], 0


class _Journal:
    """The working file: its settings, then one line per prompt, each written at once."""

    def __init__(self, file: Path, settings: _Settings) -> None:
        self._file = file
        self._settings = settings
        self._descriptor = -1
        self.finished, length = _read_journal(file, settings)
        if file.exists():
            os.truncate(file, length)
        self._is_new = length == 0

    def __enter__(self) -> "_Journal":
        self._file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._file, flags, 0o666)
        if self._is_new:
            self._write(self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, entry: _Done) -> None:
        """Add what was found for one prompt; a kill cannot undo it."""
        self._write(entry)

    def remove(self) -> None:
        """Delete the working file: its work is in the table."""
        self._file.unlink(missing_ok=True)

    def _write(self, row: _Row) -> None:
        rest = memoryview((json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n").encode())
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
