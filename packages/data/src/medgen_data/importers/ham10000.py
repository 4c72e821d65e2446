"""HAM10000: dermoscopic images of seven classes (Tschandl et al. 2018); images of one lesion are a group."""

from pathlib import Path

from medgen_data.importers.labelled_csv import row_problem
from medgen_data.importers.listing import (
    Listing,
    SourceImage,
    check_source_file,
    list_image_files,
    make_record_ids,
    unused_files,
)
from medgen_data.importers.tables import Table, TableRow, read_facts, read_table
from medgen_data.problems import DataError, Problem

DIAGNOSES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
_TABLE_NAMES = ("HAM10000_metadata.csv", "HAM10000_metadata")
_FOLDER_NAMES = ("HAM10000_images", "HAM10000_images_part_1", "HAM10000_images_part_2")
_REQUIRED = ("lesion_id", "image_id", "dx")


def list_ham10000(source_dir: Path) -> Listing:
    """List the images of the metadata table; `dx` becomes the label, the other columns facts.

    Raises:
        DataError: If the table or all image folders are missing.
    """
    table_file = next((source_dir / name for name in _TABLE_NAMES if (source_dir / name).is_file()), None)
    if table_file is None:
        raise DataError(f"{source_dir} has no {_TABLE_NAMES[0]}; point to the unpacked HAM10000 folder")
    folders = [source_dir / name for name in _FOLDER_NAMES if (source_dir / name).is_dir()]
    if not folders:
        raise DataError(f"{source_dir} has none of the image folders {', '.join(_FOLDER_NAMES)}; unpack them")
    table = read_table(table_file, _REQUIRED)
    files = {file.stem: file for folder in folders for file in list_image_files(folder).values()}
    problems = list(table.problems)
    rows: dict[str, TableRow] = {}
    for row in table.rows:
        problem = _row_fault(source_dir, table, row, rows, files)
        if problem is None:
            rows[row.cells["image_id"]] = row
        else:
            problems.append(problem)
    facts = dict(zip((row.line for row in table.rows), read_facts(table, skip=_REQUIRED), strict=True))
    images = [
        SourceImage(
            files[image_id],
            files[image_id].relative_to(source_dir).as_posix(),
            record_id,
            row=row.line,
            label=DIAGNOSES[row.cells["dx"]],
            group_id=row.cells["lesion_id"],
            facts=facts[row.line],
        )
        for (image_id, row), record_id in zip(
            rows.items(), make_record_ids([f"{image_id}.jpg" for image_id in rows]), strict=True
        )
    ]
    problems += unused_files(source_dir, sorted(files.values()), images)
    return Listing(tuple(images), tuple(problems))


def _row_fault(
    source_dir: Path, table: Table, row: TableRow, rows: dict[str, TableRow], files: dict[str, Path]
) -> Problem | None:
    """Return why a row cannot be used, None if it can."""
    image_id, dx = row.cells["image_id"], row.cells["dx"]
    if image_id not in files:
        detail = f"names image {image_id!r}, which is not there; restore the file or drop the row"
        return row_problem(table, row, "image_id", "missing-file", detail)
    if image_id in rows:
        detail = f"names {image_id!r} again, first in row {rows[image_id].line}, which is used; keep one"
        return row_problem(table, row, "image_id", "duplicate-id", detail)
    if dx not in DIAGNOSES:
        detail = f"has diagnosis {dx!r}, expected one of {', '.join(DIAGNOSES)}; correct it or drop the row"
        return row_problem(table, row, "dx", "unknown-label", detail)
    if not row.cells["lesion_id"]:
        detail = "has no lesion, so it cannot be kept on one side of a split; fill it in or drop the row"
        return row_problem(table, row, "lesion_id", "missing-group", detail)
    return check_source_file(source_dir, files[image_id], row=row.line)
