"""One folder per class, as Kvasir v2 comes: `<class>/*.jpg`."""

from pathlib import Path

from medgen_data.image_folder import IMAGE_SUFFIXES
from medgen_data.importers.listing import (
    Listing,
    SourceImage,
    check_source_file,
    make_record_ids,
    readable_label,
)
from medgen_data.problems import DataError, Problem


def list_class_folders(source_dir: Path) -> Listing:
    """List `<class>/<image>`; the label is the folder's name in words.

    Raises:
        DataError: If there are no class folders.
    """
    folders = [
        path for path in sorted(source_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")
    ]
    if not folders:
        raise DataError(f"{source_dir} has no folders; expected one folder per class, with images in it")
    problems = [_problem(source_dir, path, "no-class") for path in _files(source_dir) if _is_image(path)]
    files: list[Path] = []
    for folder in folders:
        found = _files(folder)
        images = [path for path in found if _is_image(path)]
        problems += [_problem(source_dir, path, "not-an-image") for path in found if not _is_image(path)]
        problems += [
            _problem(source_dir, path, "nested-folder") for path in sorted(folder.iterdir()) if path.is_dir()
        ]
        if not images:
            problems.append(_problem(source_dir, folder, "empty-class"))
        files += images
    refused = {path: check_source_file(source_dir, path) for path in files}
    problems += [problem for problem in refused.values() if problem is not None]
    names = [path.relative_to(source_dir).as_posix() for path in files if refused[path] is None]
    images_found = tuple(
        SourceImage(source_dir / name, name, record_id, label=readable_label(name.split("/")[0]))
        for name, record_id in zip(names, make_record_ids(names), strict=True)
    )
    return Listing(images_found, tuple(problems))


_REASONS = {
    "no-class": "lies outside the class folders; move it into one",
    "not-an-image": f"has no image suffix ({', '.join(sorted(IMAGE_SUFFIXES))}); move it out or rename it",
    "nested-folder": "is a folder in a class folder; move its images up into the class folder",
    "empty-class": "is a class folder without images; add images or remove it",
}


def _problem(source_dir: Path, path: Path, code: str) -> Problem:
    return Problem(file=path.relative_to(source_dir).as_posix(), code=code, detail=_REASONS[code])


def _files(folder: Path) -> list[Path]:
    # A dangling link is no file, but it is something that was meant to be one.
    return [path for path in sorted(folder.iterdir()) if not path.is_dir() and not path.name.startswith(".")]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
