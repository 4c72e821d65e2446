"""Data: source images become a data set folder, whole or not at all."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medgen_data.image_folder import CARD_NAME, ImageDataset, read_image_folder
from medgen_data.phantoms import write_phantom_dataset
from medgen_data.problems import DataError, Problem

from medgen_cli.errors import UsageError
from medgen_cli.settings import DataSettings


@dataclass(frozen=True)
class MadeDataset:
    """A data set, and the source images that are not in it."""

    dataset: ImageDataset
    problems: tuple[Problem, ...]


def make_dataset(
    settings: DataSettings,
    dataset_dir: Path,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> MadeDataset:
    """Make a data set aside and move it into place when it is whole.

    Args:
        settings: Source and geometry.
        dataset_dir: The new folder.
        seed: Seed of the split, and of phantoms.
        on_progress: Called with (done, total).

    Raises:
        UsageError: If the folder holds something already.
        DataError: If the source is missing or none of it can be used.
    """
    if dataset_dir.exists() and (not dataset_dir.is_dir() or any(dataset_dir.iterdir())):
        raise UsageError(f"{dataset_dir}: is not an empty folder; choose a new --out")
    aside = dataset_dir.with_name(f".{dataset_dir.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    problems = _fill(settings, aside, seed=seed, on_progress=on_progress)
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


def _fill(
    settings: DataSettings,
    dataset_dir: Path,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Problem, ...]:
    if settings.kind == "phantoms":
        assert settings.num_images is not None
        write_phantom_dataset(
            dataset_dir,
            num_images=settings.num_images,
            size=settings.size,
            seed=seed,
            test_fraction=settings.test_fraction,
        )
        return ()
    raise NotImplementedError
