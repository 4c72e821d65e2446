"""A csv table of files and labels beside the images.

Columns `file` and `label`; optional `group_id`; every further column becomes a fact of the image.
"""

from pathlib import Path

from medgen_data.importers.listing import (
    Listing,
    SourceImage,
    list_image_files,
    make_record_ids,
    readable_label,
    unused_files,
)
from medgen_data.importers.tables import Table, TableRow, read_facts, read_table
from medgen_data.paths import safe_join
from medgen_data.problems import DataError, Problem
from medgen_data.records import FactValue


def list_labelled_csv(source_dir: Path) -> Listing:
    """List the images of the one csv table in a folder, by default `labels.csv`.

    File names are looked up below the folder and below its `images/`.

    Raises:
        DataError: If there is no table, or several and none is `labels.csv`.
    """
    table = read_table(_find_table(source_dir), ("file", "label"))
    rows, problems = usable_rows(table, source_dir)
    skip = ("file", "label", "group_id")
    facts = dict(zip((row.line for row in table.rows), read_facts(table, skip=skip), strict=True))
    images = [
        _source_image(source_dir, row, file, record_id, facts[row.line])
        for (row, file), record_id in zip(
            rows, make_record_ids([row.cells["file"] for row, _ in rows]), strict=True
        )
    ]
    present = [
        file
        for folder in (source_dir, source_dir / "images")
        if folder.is_dir()
        for file in list_image_files(folder).values()
    ]
    problems += unused_files(source_dir, present, images)
    return Listing(tuple(images), tuple(problems))


def usable_rows(table: Table, source_dir: Path) -> tuple[list[tuple[TableRow, Path]], list[Problem]]:
    """Return the rows whose file exists, with it, and a problem for every other row.

    The first of several rows for one file is used.
    """
    problems = list(table.problems)
    rows: list[tuple[TableRow, Path]] = []
    first_lines: dict[Path, int] = {}
    for row in table.rows:
        try:
            file = find_file(source_dir, row.cells["file"])
        except DataError as error:
            problems.append(row_problem(table, row, "file", "unsafe-path", str(error)))
            continue
        if file is None:
            detail = f"names {row.cells['file']!r}, which is not there; restore the file or drop the row"
            problems.append(row_problem(table, row, "file", "missing-file", detail))
        elif file in first_lines:
            detail = f"names {row.cells['file']!r} again, first in row {first_lines[file]}, which is used; keep one"
            problems.append(row_problem(table, row, "file", "duplicate-id", detail))
        else:
            first_lines[file] = row.line
            rows.append((row, file))
    return rows, problems


def find_file(source_dir: Path, name: str) -> Path | None:
    """Return the file that a table calls `name`, below the source folder or its `images/`, if any.

    Raises:
        DataError: If the name or a link leaves the source folder.
    """
    candidates = [safe_join(source_dir, name), safe_join(source_dir, f"images/{name}")]
    return next((file for file in candidates if file.is_file()), None)


def row_problem(table: Table, row: TableRow, column: str, code: str, detail: str) -> Problem:
    """Return the problem of one cell of a table."""
    return Problem(file=table.file.name, row=row.line, field=column, code=code, detail=detail)


def _source_image(
    source_dir: Path, row: TableRow, file: Path, record_id: str, facts: dict[str, FactValue]
) -> SourceImage:
    return SourceImage(
        file,
        file.relative_to(source_dir).as_posix(),
        record_id,
        row=row.line,
        label=readable_label(row.cells["label"]) or None,
        group_id=row.cells.get("group_id") or None,
        facts=facts,
    )


def _find_table(source_dir: Path) -> Path:
    tables = sorted(source_dir.glob("*.csv"))
    for table in tables:
        if table.name == "labels.csv" or len(tables) == 1:
            return table
    found = ", ".join(table.name for table in tables) or "none"
    raise DataError(f"{source_dir}: expected one csv table or one called labels.csv, found {found}")
