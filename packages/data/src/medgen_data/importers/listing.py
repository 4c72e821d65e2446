"""What an importer finds in a source folder before any pixel is read."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medgen_data.image_folder import IMAGE_SUFFIXES
from medgen_data.paths import check_relative_name, safe_join
from medgen_data.problems import DataError, Problem
from medgen_data.records import FactValue


@dataclass(frozen=True)
class SourceImage:
    """One image of a source and what its source says about it."""

    file: Path
    name: str  # POSIX path below the source folder
    record_id: str
    row: int | None = None  # line of the table that names the image
    label: str | None = None
    group_id: str | None = None
    text: tuple[str, ...] = ()
    facts: dict[str, FactValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """All images of a source, and what is wrong with the source so far."""

    images: tuple[SourceImage, ...]
    problems: tuple[Problem, ...]


def readable_label(name: str) -> str:
    """Return a folder or column value as words.

    >>> readable_label("dyed-lifted-polyps")
    'dyed lifted polyps'
    """
    return " ".join(re.split(r"[\s_-]+", name.strip(" _-")))


def make_record_ids(names: Sequence[str]) -> list[str]:
    """Turn source names into record ids that stay the same whatever else is in the source folder.

    Unusable characters become hyphens. Where that is ambiguous, a hash of the name is added.

    >>> make_record_ids(["polyps/a 1.jpg", "polyps/b.jpg"])
    ['polyps-a-1', 'polyps-b']
    """
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition(".")[0] or name).strip(".-") for name in names]
    # Folded: two files that differ in case only are one file on some disks.
    counts = Counter(record_id.lower() for record_id in plain)
    return [
        record_id if counts[record_id.lower()] == 1 and _usable(record_id) else _with_hash(record_id, name)
        for record_id, name in zip(plain, names, strict=True)
    ]


def list_image_files(folder: Path) -> dict[str, Path]:
    """Return the image files directly in a folder by name, sorted; hidden files do not count."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES
    }


def check_source_file(source_dir: Path, file: Path, *, row: int | None = None) -> Problem | None:
    """Return why a source file may not be read: its name, or a link that leaves the source folder."""
    name = file.relative_to(source_dir).as_posix()
    try:
        safe_join(source_dir, name)
    except DataError as error:
        return Problem(file=name, row=row, code="unsafe-path", detail=str(error))
    return None


def unused_files(source_dir: Path, files: Sequence[Path], used: Sequence[SourceImage]) -> list[Problem]:
    """Return a problem for every image file that no row of the table named."""
    named = {image.file for image in used}
    return [
        Problem(
            file=file.relative_to(source_dir).as_posix(),
            code="no-row",
            detail="has no usable row in the table; add one or move the file out",
        )
        for file in files
        if file not in named
    ]


def _usable(record_id: str) -> bool:
    try:
        check_relative_name(f"{record_id}.png")
    except DataError:
        return False
    return 0 < len(record_id) <= 128


def _with_hash(record_id: str, name: str) -> str:
    return f"{record_id[:110] or 'image'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
