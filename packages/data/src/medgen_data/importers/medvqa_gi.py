"""MedVQA-GI: endoscopic images with several prompts each, `prompt-gt.csv` (Prompt;Filename).

An optional `labels.csv` beside it (`file`, `label`, further columns become facts) is joined by file name.
"""

from collections import defaultdict
from pathlib import Path

from medgen_data.importers.labelled_csv import find_file, row_problem, usable_rows
from medgen_data.importers.listing import (
    Listing,
    SourceImage,
    list_image_files,
    make_record_ids,
    readable_label,
    unused_files,
)
from medgen_data.importers.tables import Table, TableRow, read_facts, read_table
from medgen_data.problems import DataError, Problem
from medgen_data.records import FactValue

_SUFFIXES = ("", ".jpg", ".jpeg", ".png")


def list_medvqa_gi(source_dir: Path) -> Listing:
    """List the prompted images; all prompts of an image are its texts, repeated ones once.

    Raises:
        DataError: If `prompt-gt.csv` is missing or malformed, or `labels.csv` is malformed.
    """
    table = read_table(source_dir / "prompt-gt.csv", ("Prompt", "Filename"))
    prompts, first_rows, problems = _collect_prompts(source_dir, table)
    labels, label_problems = _read_labels(source_dir)
    problems += label_problems
    if labels is not None:
        for file in [file for file in prompts if file not in labels]:
            detail = f"names {file.name!r}, which labels.csv lacks; add it there"
            problems.append(row_problem(table, first_rows[file], "Filename", "no-label", detail))
            del prompts[file]
    images = []
    for file, record_id in zip(prompts, make_record_ids([file.name for file in prompts]), strict=True):
        label, facts = labels[file] if labels is not None else (None, {})
        images.append(
            SourceImage(
                file,
                file.relative_to(source_dir).as_posix(),
                record_id,
                row=first_rows[file].line,
                label=label,
                group_id=record_id,  # the split is by image, never by prompt
                text=tuple(prompts[file]),
                facts=facts,
            )
        )
    folder = source_dir / "images"
    present = list(list_image_files(folder if folder.is_dir() else source_dir).values())
    problems += unused_files(source_dir, [file for file in present if file not in first_rows], images)
    return Listing(tuple(images), tuple(problems))


def _collect_prompts(
    source_dir: Path, table: Table
) -> tuple[dict[Path, list[str]], dict[Path, TableRow], list[Problem]]:
    problems = list(table.problems)
    prompts: dict[Path, list[str]] = defaultdict(list)
    first_rows: dict[Path, TableRow] = {}
    for row in table.rows:
        name, prompt = row.cells["Filename"], row.cells["Prompt"]
        try:
            file = next(
                (found for suffix in _SUFFIXES if (found := find_file(source_dir, name + suffix))), None
            )
        except DataError as error:
            problems.append(row_problem(table, row, "Filename", "unsafe-path", str(error)))
            continue
        if file is None:
            detail = f"names {name!r}, which is not there; restore the file or drop the row"
            problems.append(row_problem(table, row, "Filename", "missing-file", detail))
        elif not prompt:
            problems.append(row_problem(table, row, "Prompt", "empty-prompt", "is empty; drop the row"))
        else:
            first_rows.setdefault(file, row)
            if prompt not in prompts[file]:
                prompts[file].append(prompt)
    return dict(prompts), first_rows, problems


def _read_labels(
    source_dir: Path,
) -> tuple[dict[Path, tuple[str | None, dict[str, FactValue]]] | None, list[Problem]]:
    if not (source_dir / "labels.csv").exists():
        return None, []
    table = read_table(source_dir / "labels.csv", ("file", "label"))
    rows, problems = usable_rows(table, source_dir)
    facts = dict(
        zip((row.line for row in table.rows), read_facts(table, skip=("file", "label")), strict=True)
    )
    labels = {file: (readable_label(row.cells["label"]) or None, facts[row.line]) for row, file in rows}
    return labels, problems
