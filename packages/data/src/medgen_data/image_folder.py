"""Data set folders: images, `metadata.jsonl` and `dataset.json`.

Any tool that knows the `imagefolder` layout can read the folder. This reader is strict where others are
silent: every row has its file, every image file its row, every id is unique.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medgen_data.atomic import write_json_atomic, write_jsonl_atomic
from medgen_data.fingerprint import dataset_fingerprint
from medgen_data.jsonl import iterate_jsonl, read_json_object
from medgen_data.paths import safe_join
from medgen_data.problems import DataError, list_briefly
from medgen_data.records import DatasetCard, ImageRecord, Split

CARD_NAME = "dataset.json"
ROWS_NAME = "metadata.jsonl"
IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"])


@dataclass(frozen=True)
class ImageDataset:
    """A data set, or a selection of one, on disk."""

    root: Path
    card: DatasetCard
    records: tuple[ImageRecord, ...]

    def select(self, *, split: Split | None = None, label: str | None = None) -> "ImageDataset":
        """Return the records of one split, one label or both; folder and card stay those of the whole.

        Raises:
            DataError: If no record is left.
        """
        chosen = tuple(
            record
            for record in self.records
            if (split is None or record.split == split) and (label is None or record.label == label)
        )
        if not chosen:
            wanted = [f"split {split}"] * (split is not None) + [f"label {label!r}"] * (label is not None)
            splits = dict(Counter(record.split or "none" for record in self.records))
            raise DataError(
                f"{self.root} has no record with {' and '.join(wanted) or 'any value'}; "
                f"it has splits {splits} and labels {list(self.card.labels)}"
            )
        return replace(self, records=chosen)

    def image_file(self, record: ImageRecord) -> Path:
        """Return where the image of a record lies."""
        return safe_join(self.root, record.file_name)


def read_image_folder(dataset_dir: Path) -> ImageDataset:
    """Read a data set folder and check that rows, files and card agree.

    Pixels are not read; `check_fingerprint` does that.

    Raises:
        DataError: If the folder or one of its two files is missing or malformed, an id or a file name
            occurs twice, a row has no file, an image file no row, or the card tells another story.
    """
    if not dataset_dir.is_dir():
        raise DataError(f"data set folder {dataset_dir} does not exist; check the path, or import one first")
    if not (dataset_dir / CARD_NAME).is_file():
        raise DataError(
            f"{dataset_dir} is not a finished data set: it has no {CARD_NAME}; import it, or run the "
            "interrupted import again"
        )
    card = read_json_object(dataset_dir / CARD_NAME, DatasetCard)
    records = tuple(record for _, record in iterate_jsonl(dataset_dir / ROWS_NAME, ImageRecord))
    _check_unique(dataset_dir, records)
    _check_files(dataset_dir, records)
    _check_card(dataset_dir, card, records)
    return ImageDataset(dataset_dir, card, records)


def write_card_and_rows(
    dataset_dir: Path,
    *,
    records: Iterable[ImageRecord],
    name: str,
    modality: str,
    source: str,
    licence: str,
    synthetic: bool,
    split_seed: int | None,
) -> ImageDataset:
    """Finish a data set whose images are already in the folder: rows first, the card last.

    A folder without a card is an unfinished data set, so a kill in between is never mistaken for a whole.

    Args:
        dataset_dir: Folder that holds the image files of `records`.
        records: Rows, written in this order.
        name: Name of the data set.
        modality: E.g. `endoscopic`.
        source: Where the images come from.
        licence: Terms of the images.
        synthetic: Whether a model made the images.
        split_seed: Seed of the split, None if it was given.

    Raises:
        DataError: If there are no records, ids or names repeat, or rows and files do not agree.
    """
    records = tuple(records)
    if not records:
        raise DataError(f"{dataset_dir}: a data set needs at least one record, got none")
    _check_unique(dataset_dir, records)
    _check_files(dataset_dir, records)
    card = DatasetCard(
        name=name,
        modality=modality,
        source=source,
        licence=licence,
        synthetic=synthetic,
        num_records=len(records),
        labels=_labels(records),
        fingerprint=dataset_fingerprint(dataset_dir, records),
        split_seed=split_seed,
    )
    write_jsonl_atomic(dataset_dir / ROWS_NAME, (record.to_row() for record in records))
    write_json_atomic(dataset_dir / CARD_NAME, card.model_dump(mode="json"))
    return ImageDataset(dataset_dir, card, records)


def check_fingerprint(dataset: ImageDataset) -> None:
    """Hash all records and images and compare with the card; `dataset` must be the whole set.

    Raises:
        DataError: If anything changed since the card was written.
    """
    found = dataset_fingerprint(dataset.root, dataset.records)
    if found != dataset.card.fingerprint:
        raise DataError(
            f"{dataset.root} changed since it was written: {CARD_NAME} says fingerprint "
            f"{dataset.card.fingerprint[:12]}, the files give {found[:12]}; import it again"
        )


def _labels(records: Sequence[ImageRecord]) -> tuple[str, ...]:
    return tuple(sorted({record.label for record in records if record.label is not None}))


def _check_unique(dataset_dir: Path, records: Sequence[ImageRecord]) -> None:
    for field in ("record_id", "file_name"):
        counts = Counter(getattr(record, field) for record in records)
        repeated = [f"{value} ({count} times)" for value, count in counts.items() if count > 1]
        if repeated:
            raise DataError(
                f"{dataset_dir / ROWS_NAME}, field {field}: {len(repeated)} values occur more than once: "
                f"{list_briefly(repeated)}; make them unique"
            )


def _check_files(dataset_dir: Path, records: Sequence[ImageRecord]) -> None:
    named = {record.file_name for record in records}
    present = _image_names(dataset_dir)
    lost = sorted(name for name in named - present if not safe_join(dataset_dir, name).is_file())
    if lost:
        raise DataError(
            f"{dataset_dir / ROWS_NAME}: {len(lost)} of {len(records)} rows have no image file: "
            f"{list_briefly(lost)}; restore the files or drop the rows"
        )
    stray = sorted(present - named)
    if stray:
        raise DataError(
            f"{dataset_dir}: {len(stray)} image files have no row in {ROWS_NAME}: {list_briefly(stray)}; "
            "add rows or move the files out"
        )
    # What was found by walking real folders is inside; only a link can lead out.
    for name in named & present:
        if (dataset_dir / name).is_symlink():
            safe_join(dataset_dir, name)


def _image_names(dataset_dir: Path) -> set[str]:
    """Return the names of all image files below a folder; hidden files and folders do not count."""
    names = set()
    for folder, subfolders, files in os.walk(dataset_dir):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(folder).relative_to(dataset_dir)
        names |= {
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        }
    return names


def _check_card(dataset_dir: Path, card: DatasetCard, records: Sequence[ImageRecord]) -> None:
    if not records:
        raise DataError(f"{dataset_dir / ROWS_NAME} has no rows; import the data set again")
    told = {"num_records": card.num_records, "labels": card.labels}
    found = {"num_records": len(records), "labels": _labels(records)}
    for field, value in told.items():
        if value != found[field]:
            raise DataError(
                f"{dataset_dir / CARD_NAME}, field {field}: the card says {value}, {ROWS_NAME} gives "
                f"{found[field]}; one of the two was edited: import the data set again"
            )
