"""Image sets: which files belong to a set, and what its rows say about them.

A set is a folder, a zip archive, or either with a `metadata.jsonl` whose rows say what belongs to it.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medgen_metrics.image_archives import is_archive, is_safe_name, list_members
from medgen_metrics.image_decoding import read_image_bytes

logger = logging.getLogger(__name__)

ROWS_NAME = "metadata.jsonl"
FOLDER_FIELD = "folder"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageRow:
    """One image of a set, with the other fields of its row in `metadata.jsonl`, if there is one."""

    file: Path
    fields: Mapping[str, object]


def list_image_files(source: Path) -> tuple[Path, ...]:
    """List the images of a set; suffixes in any case, hidden files left out.

    Args:
        source: Folder or zip archive. If there is a `metadata.jsonl` at its top, its rows are the set, in
            their order; otherwise every image below it, sorted. Images of an archive are named
            `set.zip/polyps/001.png`.

    Raises:
        FileNotFoundError: If there is no such folder or archive, or a row names a file that is not there.
        ValueError: If it holds no image, or a row is malformed.
    """
    return tuple(row.file for row in list_image_rows(source))


def list_image_rows(source: Path) -> tuple[ImageRow, ...]:
    """List the images of a set with their metadata, as `list_image_files` does.

    Raises:
        FileNotFoundError: If there is no such folder or archive, or a row names a file that is not there.
        ValueError: If it holds no image, or a row is malformed.
    """
    if is_archive(source):
        names = list_members(source)
    elif source.is_dir():
        names = _visible_files(source)
    else:
        raise FileNotFoundError(f"{source}: expected a folder of images or a .zip archive of them")
    images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(
            f"{source}: no images found, expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    if ROWS_NAME not in names:
        return tuple(ImageRow(source / name, {}) for name in images)
    rows = _read_rows(source, frozenset(images))
    num_left_out = len(images) - len({row.file for row in rows})
    if num_left_out:
        logger.warning("%s: %d images have no row in %s, left out", source, num_left_out, ROWS_NAME)
    return rows


def list_image_classes(source: Path, field: str) -> tuple[str, ...]:
    """List the class of every image of a set, in the order of `list_image_files`.

    Args:
        source: Folder or zip archive.
        field: Field of `metadata.jsonl`, e.g. "label"; or "folder", the name of the folder an image lies in.

    Raises:
        FileNotFoundError: If there is no such folder or archive, or a row names a file that is not there.
        ValueError: If an image has no such field.
    """
    rows = list_image_rows(source)
    if field == FOLDER_FIELD:
        return tuple(row.file.parent.name for row in rows)
    lacking = [row.file for row in rows if not isinstance(row.fields.get(field), str)]
    if lacking:
        known = sorted({name for row in rows for name, value in row.fields.items() if isinstance(value, str)})
        raise ValueError(
            f"{lacking[0]}: has no text in a field {field!r} of {source / ROWS_NAME} ({len(lacking)} of "
            f"{len(rows)} images); there are {', '.join(known) or 'no fields'}, or {FOLDER_FIELD!r} for the name "
            "of the folder that holds the image"
        )
    return tuple(str(row.fields[field]) for row in rows)


def _visible_files(folder: Path) -> tuple[str, ...]:
    names = []
    for file in folder.rglob("*"):
        relative = file.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts) and file.is_file():
            names.append(relative)
    return tuple(name.as_posix() for name in sorted(names))


def _read_rows(source: Path, images: frozenset[str]) -> tuple[ImageRow, ...]:
    rows_file = source / ROWS_NAME
    try:
        lines = read_image_bytes(rows_file).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{rows_file}: is not UTF-8 ({error}); write it again") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{rows_file}, line {number}: is not JSON ({error})") from error
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not is_safe_name(name):
            raise ValueError(
                f"{rows_file}, line {number}: expected an object with file_name, a path below {source}, "
                f"got {line[:80]}"
            )
        if name not in images:
            raise FileNotFoundError(f"{rows_file}, line {number}: {name} is no image of {source}")
        rows.append(ImageRow(source / name, {key: row[key] for key in row if key != "file_name"}))
    if not rows:
        raise ValueError(f"{rows_file}: has no rows; delete it to take every image of {source}")
    return tuple(rows)
