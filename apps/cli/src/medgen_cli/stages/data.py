"""Data: source images become a data set folder."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medgen_data.atomic import write_bytes_atomic, write_jsonl_atomic
from medgen_data.image_folder import ImageDataset, read_image_folder, write_card_and_rows
from medgen_data.images import ImageError, decode_image, encode_png, fit_square
from medgen_data.importers import ImportKind, import_dataset
from medgen_data.phantoms import write_phantom_dataset
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord
from medgen_data.splits import assign_splits

from medgen_cli.errors import UsageError
from medgen_cli.settings import DataKind, DataSettings

OnProgress = Callable[[int, int], None]

_IMPORT_KINDS: dict[DataKind, ImportKind] = {
    "class-folders": "class-folders",
    "csv": "labelled-csv",
    "ham10000": "ham10000",
    "medvqa-gi": "medvqa-gi",
}
# What the layout of a source says about its images, when nobody says more.
_MODALITIES: dict[DataKind, str] = {"ham10000": "dermoscopic", "medvqa-gi": "endoscopic"}
_LICENCES: dict[DataKind, str] = {"ham10000": "CC BY-NC 4.0"}


@dataclass(frozen=True)
class MadeDataset:
    """A data set, and the source images that are not in it."""

    dataset: ImageDataset
    problems: tuple[Problem, ...]


def make_dataset(
    settings: DataSettings, dataset_dir: Path, *, seed: int, on_progress: OnProgress | None = None
) -> MadeDataset:
    """Make a data set, or continue one that an interrupted run left.

    Args:
        settings: Source and geometry.
        dataset_dir: The new folder.
        seed: Seed of the split, and of phantoms.
        on_progress: Called with (done, total).

    Raises:
        UsageError: If the folder holds something else.
        DataError: If the source is missing or none of it can be used.
    """
    if settings.kind in _IMPORT_KINDS:
        return _import(settings, dataset_dir, seed=seed, on_progress=on_progress)
    if dataset_dir.exists() and (not dataset_dir.is_dir() or any(dataset_dir.iterdir())):
        raise UsageError(f"{dataset_dir}: is not an empty folder; choose a new --out")
    # Made aside and moved into place whole: what a kill leaves behind is thrown away here.
    aside = dataset_dir.with_name(f".{dataset_dir.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    if settings.kind == "phantoms":
        assert settings.num_images is not None
        problems: tuple[Problem, ...] = ()
        write_phantom_dataset(
            aside,
            num_images=settings.num_images,
            size=settings.size,
            seed=seed,
            test_fraction=settings.test_fraction,
            on_progress=on_progress,
        )
    else:
        problems = _copy_image_folder(settings, aside, seed=seed, on_progress=on_progress)
    if dataset_dir.exists():
        dataset_dir.rmdir()
    aside.rename(dataset_dir)
    return MadeDataset(read_image_folder(dataset_dir), problems)


def source_fingerprint(root: Path) -> str:
    """Return a hash of names, sizes and times of all files below a source folder.

    It tells whether the source changed without reading gigabytes; the pixels are hashed in the data set.

    Raises:
        DataError: If the folder is missing.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check data.root")
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        about = file.stat()
        digest.update(f"{file.relative_to(root).as_posix()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _import(
    settings: DataSettings, dataset_dir: Path, *, seed: int, on_progress: OnProgress | None
) -> MadeDataset:
    root = settings.root
    assert root is not None
    done = import_dataset(
        _IMPORT_KINDS[settings.kind],
        root,
        dataset_dir,
        size=settings.size,
        policy=settings.policy,
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        split_seed=seed,
        modality=settings.modality or _MODALITIES.get(settings.kind, "medical"),
        licence=settings.licence or _LICENCES.get(settings.kind, "not stated"),
        source=f"{settings.kind} {root.resolve().name}",
        name=settings.name,
        limit=settings.limit,
        on_progress=on_progress,
    )
    return MadeDataset(done.dataset, done.problems)


def _copy_image_folder(
    settings: DataSettings, dataset_dir: Path, *, seed: int, on_progress: OnProgress | None
) -> tuple[Problem, ...]:
    """Copy a data set of ours at another size; its split is kept if it has one."""
    root = settings.root
    assert root is not None
    source = read_image_folder(root)
    records: list[ImageRecord] = []
    problems: list[Problem] = []
    for done, record in enumerate(source.records, start=1):
        try:
            pixels = fit_square(
                decode_image(source.image_file(record)), settings.size, policy=settings.policy
            )
        except ImageError as error:
            problems.append(Problem(file=record.file_name, code=error.code, detail=error.detail))
        else:
            copied = record.model_copy(update={"file_name": f"images/{record.record_id}.png"})
            write_bytes_atomic(dataset_dir / copied.file_name, encode_png(pixels))
            records.append(copied)
        if on_progress:
            on_progress(done, len(source.records))
    if not records:
        raise DataError(f"{root}: no image can be used, the first: {problems[0]}")
    has_split = any(record.split is not None for record in records)
    if not has_split:
        records = list(assign_splits(records, test_fraction=settings.test_fraction, seed=seed))
    write_jsonl_atomic(dataset_dir / "problems.jsonl", [problem.model_dump() for problem in problems])
    write_card_and_rows(
        dataset_dir,
        records=records,
        name=settings.name or source.card.name,
        modality=settings.modality or source.card.modality,
        source=source.card.source,
        licence=settings.licence or source.card.licence,
        synthetic=source.card.synthetic,
        split_seed=source.card.split_seed if has_split else seed,
    )
    return tuple(problems)
