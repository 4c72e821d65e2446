"""Import a source folder: every image decoded, fitted to one size, written as PNG, split, and accounted for."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medgen_data.atomic import write_json_atomic, write_jsonl_atomic
from medgen_data.image_folder import CARD_NAME, ImageDataset, read_image_folder, write_card_and_rows
from medgen_data.images import FitPolicy
from medgen_data.importers.class_folders import list_class_folders
from medgen_data.importers.ham10000 import list_ham10000
from medgen_data.importers.labelled_csv import list_labelled_csv
from medgen_data.importers.listing import Listing, SourceImage
from medgen_data.importers.medvqa_gi import list_medvqa_gi
from medgen_data.importers.pixels import write_pixels
from medgen_data.jsonl import iterate_jsonl, read_json_object
from medgen_data.problems import DataError, Problem, list_briefly
from medgen_data.records import ImageRecord
from medgen_data.splits import assign_splits, seeded_order

logger = logging.getLogger(__name__)

ImportKind = Literal["class-folders", "labelled-csv", "ham10000", "medvqa-gi"]
PROBLEMS_NAME = "problems.jsonl"
SETTINGS_NAME = "import.json"


@dataclass(frozen=True)
class ImportRun:
    """What came out of an import: the data set, and every image or row that is not in it."""

    dataset: ImageDataset
    problems: tuple[Problem, ...]


class ImportSettings(BaseModel):
    """All that decides the outcome of an import; the file `import.json` in the data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ImportKind
    size: int = Field(ge=1)
    policy: FitPolicy
    test_fraction: float
    validation_fraction: float
    split_seed: int
    name: str
    modality: str
    licence: str
    source: str
    limit: int | None = Field(ge=1)
    allowed_labels: tuple[str, ...] | None
    listing_sha256: str


def import_dataset(
    kind: ImportKind,
    source_dir: Path,
    dataset_dir: Path,
    *,
    size: int,
    policy: FitPolicy = "center-crop",
    test_fraction: float,
    validation_fraction: float = 0.0,
    split_seed: int,
    modality: str,
    licence: str,
    source: str,
    name: str | None = None,
    limit: int | None = None,
    allowed_labels: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportRun:
    """Import a source folder into a data set folder.

    A killed import goes on where it stopped when it is called again; a finished one is returned as it is.
    Images that cannot be used are listed in `problems.jsonl` and the others are done.

    Args:
        kind: Layout of the source.
        source_dir: Folder that holds the source; only read.
        dataset_dir: New folder for the data set, outside the source.
        size: Side of the square images, pixels.
        policy: How an image is fitted to the square, see `medgen_data.images.fit_square`.
        test_fraction: Part of each class for test.
        validation_fraction: Part of each class for validation.
        split_seed: Seed of the split and of the subset.
        modality: E.g. `endoscopic`.
        licence: Terms of the images.
        source: Where the images come from.
        name: Name of the data set; by default that of the source folder.
        limit: Import a subset of this many images: each class in proportion, at least a few of each, and
            as many groups as possible.
        allowed_labels: Labels that may occur; others are problems. None allows all.
        on_progress: Called with the number of images done and their total.

    Raises:
        DataError: If the source cannot be read as `kind`, no image is usable, a class cannot be split, or
            `dataset_dir` holds something else.
    """
    _check_folders(source_dir, dataset_dir)
    listing = _refuse_labels(LISTERS[kind](source_dir), allowed_labels)
    settings = ImportSettings(
        kind=kind,
        size=size,
        policy=policy,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        split_seed=split_seed,
        name=name or source_dir.resolve().name,
        modality=modality,
        licence=licence,
        source=source,
        limit=limit,
        allowed_labels=None if allowed_labels is None else tuple(allowed_labels),
        listing_sha256=_listing_sha256(listing),
    )
    if _is_finished(dataset_dir, settings):
        logger.info("%s is finished already", dataset_dir)
        return ImportRun(read_image_folder(dataset_dir), _read_problems(dataset_dir))
    _check_any_left(listing.images, listing.problems, source_dir)
    num_parts = 1 + (test_fraction > 0) + (validation_fraction > 0)
    images = _subset(listing.images, limit, split_seed, num_parts)
    _split(images, settings)  # fails now rather than after the last image

    write_json_atomic(dataset_dir / SETTINGS_NAME, settings.model_dump(mode="json"))
    with write_pixels(images, dataset_dir, size=size, policy=policy, on_progress=on_progress) as written:
        problems = (*listing.problems, *written.problems)
        write_jsonl_atomic(dataset_dir / PROBLEMS_NAME, (problem.model_dump() for problem in problems))
        _check_any_left(written.images, problems, source_dir)
        dataset = write_card_and_rows(
            dataset_dir,
            records=_split(written.images, settings),
            name=settings.name,
            modality=modality,
            source=source,
            licence=licence,
            synthetic=False,
            split_seed=split_seed,
        )
    logger.info("%s: %d images, %d problems", dataset_dir, len(dataset.records), len(problems))
    return ImportRun(dataset, problems)


def _check_folders(source_dir: Path, dataset_dir: Path) -> None:
    if not source_dir.is_dir():
        raise DataError(f"source folder {source_dir} does not exist; check the path")
    if dataset_dir.resolve().is_relative_to(source_dir.resolve()):
        raise DataError(f"data set folder {dataset_dir} lies in its own source {source_dir}; choose another")
    if dataset_dir.exists() and not dataset_dir.is_dir():
        raise DataError(f"data set folder {dataset_dir} is a file; choose another name")
    if dataset_dir.is_dir() and any(dataset_dir.iterdir()) and not (dataset_dir / SETTINGS_NAME).is_file():
        raise DataError(f"{dataset_dir} is not empty and holds no import of ours; choose an empty folder")


def _refuse_labels(listing: Listing, allowed_labels: Sequence[str] | None) -> Listing:
    images, problems = [], list(listing.problems)
    labelled = any(image.label is not None for image in listing.images)
    for image in listing.images:
        if image.label is None and (labelled or allowed_labels is not None):
            detail = "has no label; add one or drop the row"
            problems.append(_label_problem(image, "missing-label", detail))
        elif allowed_labels is not None and image.label not in allowed_labels:
            detail = f"has label {image.label!r}, expected one of {', '.join(allowed_labels)}; correct it"
            problems.append(_label_problem(image, "unknown-label", detail))
        else:
            images.append(image)
    return Listing(tuple(images), tuple(problems))


def _label_problem(image: SourceImage, code: str, detail: str) -> Problem:
    return Problem(file=image.name, row=image.row, field="label", code=code, detail=detail)


def _listing_sha256(listing: Listing) -> str:
    lines = sorted(
        json.dumps({**asdict(image), "file": _num_bytes(image.file)}, sort_keys=True)
        for image in listing.images
    )
    lines += sorted(problem.model_dump_json() for problem in listing.problems)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def _num_bytes(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _is_finished(dataset_dir: Path, settings: ImportSettings) -> bool:
    """Return whether the folder holds this very import; refuse it if it holds another."""
    if not (dataset_dir / SETTINGS_NAME).is_file():
        return False
    finished = (dataset_dir / CARD_NAME).is_file()
    old = read_json_object(dataset_dir / SETTINGS_NAME, ImportSettings)
    # An unfinished import may still change whatever does not change its pixels.
    fields = sorted(ImportSettings.model_fields) if finished else ["policy", "size"]
    for field in fields:
        before, now = getattr(old, field), getattr(settings, field)
        if before != now:
            what = "the source" if field == "listing_sha256" else f"{field} {before!r}, now {now!r}"
            raise DataError(
                f"{dataset_dir} holds an import with other settings: {what} changed; "
                "choose another folder, or delete this one"
            )
    return finished


def _read_problems(dataset_dir: Path) -> tuple[Problem, ...]:
    return tuple(problem for _, problem in iterate_jsonl(dataset_dir / PROBLEMS_NAME, Problem))


def _check_any_left(images: Sequence[SourceImage], problems: Sequence[Problem], source_dir: Path) -> None:
    if not images:
        raise DataError(
            f"{source_dir}: no image can be used, {len(problems)} problems: "
            f"{list_briefly(problems, most=3) or 'the folder has no images'}"
        )


def _subset(
    images: Sequence[SourceImage], limit: int | None, seed: int, num_parts: int
) -> Sequence[SourceImage]:
    if limit is None or limit >= len(images):
        return images
    classes: dict[str | None, list[SourceImage]] = defaultdict(list)
    seen: dict[str | None, int] = defaultdict(int)
    rank: dict[str, tuple[int, int]] = {}
    for image in sorted(images, key=lambda image: seeded_order(seed, image.record_id)):
        # Second and further images of a group come last: a subset holds many groups, not many look-alikes.
        rank[image.record_id] = (seen[image.group_id] if image.group_id else 0, len(rank))
        seen[image.group_id] += 1
        classes[image.label].append(image)
    quota = {label: min(num_parts, len(members)) for label, members in classes.items()}
    while sum(quota.values()) < limit:
        # The class that is furthest below its proportion gets the next place.
        label = min(
            (label for label in classes if quota[label] < len(classes[label])),
            key=lambda label: (quota[label] + 0.5) / len(classes[label]),
        )
        quota[label] += 1
    chosen = {
        image.record_id
        for label, members in classes.items()
        for image in sorted(members, key=lambda image: rank[image.record_id])[: quota[label]]
    }
    return [image for image in images if image.record_id in chosen]


def _split(images: Sequence[SourceImage], settings: ImportSettings) -> tuple[ImageRecord, ...]:
    records = [
        ImageRecord(
            file_name=f"images/{image.record_id}.png",
            record_id=image.record_id,
            label=image.label,
            group_id=image.group_id,
            text=image.text,
            facts=image.facts,
        )
        for image in images
    ]
    return assign_splits(
        records,
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        seed=settings.split_seed,
    )


LISTERS: dict[ImportKind, Callable[[Path], Listing]] = {
    "class-folders": list_class_folders,
    "labelled-csv": list_labelled_csv,
    "ham10000": list_ham10000,
    "medvqa-gi": list_medvqa_gi,
}
