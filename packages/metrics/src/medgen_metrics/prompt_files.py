"""Which images belong to which prompt, and which real ones show what it asks for: a CSV or JSON file.

CSV has the columns `objective`, `role`, `path`, one row for each path, `role` being `original`, `rephrased` or
`real`. JSON is a list of objects with `name`, `original`, `rephrased` (may be left out) and `real`, each of the
three a path or a list of paths. A path is an image, a folder or a zip archive, relative to the file that names it.
Objectives keep the order of the file: the protocol of the challenge scores the first half of them.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from medgen_metrics.image_archives import split_archive_path
from medgen_metrics.image_sets import list_image_files

Role = Literal["original", "rephrased", "real"]
ROLES: tuple[Role, ...] = get_args(Role)
_COLUMNS = ("objective", "role", "path")


class PromptFileError(ValueError):
    """A file of prompts that cannot be used; names the file, the row or objective, and the field."""


@dataclass(frozen=True)
class ObjectiveImages:
    """The images generated for one objective, and the real ones of it."""

    name: str
    original: tuple[Path, ...]
    rephrased: tuple[Path, ...] = ()  # none: worded once
    real: tuple[Path, ...] = ()  # none: cannot be scored


def read_prompt_file(prompt_file: Path) -> tuple[ObjectiveImages, ...]:
    """Read a file of prompts, and list the images of every folder and archive in it.

    Args:
        prompt_file: `.csv` or `.json`.

    Raises:
        FileNotFoundError: If there is no such file.
        PromptFileError: If it is malformed, a path in it does not exist, or an objective has no generated images.
        ValueError: If a folder or archive in it holds no images.
    """
    if not prompt_file.is_file():
        raise FileNotFoundError(f"{prompt_file}: no such file; expected a .csv or .json file of prompts")
    try:
        text = prompt_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{prompt_file}: is not UTF-8 ({error}); write it again") from error
    match prompt_file.suffix.lower():
        case ".csv":
            rows = _csv_rows(prompt_file, text)
        case ".json":
            rows = _json_rows(prompt_file, text)
        case suffix:
            raise PromptFileError(f"{prompt_file}: expected .csv or .json, got {suffix or 'no suffix'}")
    found: dict[str, dict[Role, list[Path]]] = {}
    for where, name, role, path in rows:
        images = found.setdefault(name, {known: [] for known in ROLES})
        images[role] += _images(prompt_file.parent / path, where)
    if not found:
        raise PromptFileError(f"{prompt_file}: holds no objectives")
    for name, images in found.items():
        if not images["original"]:
            raise PromptFileError(
                f"{prompt_file}: objective {name!r} has no images of the role 'original'; generate them, or "
                "leave the objective out"
            )
    return tuple(
        ObjectiveImages(name, *(tuple(images[role]) for role in ROLES)) for name, images in found.items()
    )


_Row = tuple[str, str, Role, str]  # where it stands, objective, role, path


def _csv_rows(prompt_file: Path, text: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise PromptFileError(
                f"{prompt_file}: has no column {', '.join(missing)}; expected {', '.join(_COLUMNS)}, got "
                f"{', '.join(reader.fieldnames or ()) or 'no header'}"
            )
        for row in reader:
            where = f"{prompt_file}, line {reader.line_num}"
            name, role, path = ((row[column] or "").strip() for column in _COLUMNS)
            if not name or not path:
                raise PromptFileError(
                    f"{where}: objective and path must not be empty, got {name!r}, {path!r}"
                )
            yield where, name, _role(role, where), path
    except csv.Error as error:
        raise PromptFileError(f"{prompt_file}, line {reader.line_num}: is not CSV ({error})") from error


def _json_rows(prompt_file: Path, text: str) -> Iterator[_Row]:
    try:
        objectives = json.loads(text)
    except ValueError as error:
        raise PromptFileError(f"{prompt_file}: is not JSON ({error})") from error
    if not isinstance(objectives, list):
        raise PromptFileError(
            f"{prompt_file}: expected a list of objectives, got {type(objectives).__name__}"
        )
    names: set[str] = set()
    for number, objective in enumerate(objectives):
        where = f"{prompt_file}: objective {number}"
        fields = objective if isinstance(objective, dict) else {}
        name = fields.get("name")
        unknown = sorted(set(fields) - {"name", *ROLES})
        if not isinstance(name, str) or not name or unknown:
            raise PromptFileError(
                f"{where}: expected an object with name, {', '.join(ROLES)}, got {json.dumps(objective)[:80]}"
            )
        if name in names:
            raise PromptFileError(f"{where}: the name {name!r} is there twice")
        names.add(name)
        for role in ROLES:
            for path in _paths(fields.get(role, []), f"{where}.{role}"):
                yield f"{where}.{role}", name, role, path


def _paths(value: Any, where: str) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise PromptFileError(f"{where}: expected a path or a list of paths, got {json.dumps(value)[:80]}")
    return paths


def _role(text: str, where: str) -> Role:
    for role in ROLES:
        if text == role:
            return role
    raise PromptFileError(f"{where}: role must be one of {', '.join(ROLES)}, got {text!r}")


def _images(path: Path, where: str) -> tuple[Path, ...]:
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return list_image_files(path)
    if path.is_file() or split_archive_path(path) is not None:
        return (path,)
    raise PromptFileError(f"{where}: {path}: no such image, folder or archive")
