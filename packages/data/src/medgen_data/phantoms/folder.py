"""Write a set of phantoms as a data set folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medgen_data.atomic import flush_files, write_bytes_atomic
from medgen_data.image_folder import ImageDataset, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.phantoms.facts import PhantomFacts, draw_facts, phantom_texts
from medgen_data.phantoms.render import render_phantom
from medgen_data.problems import DataError
from medgen_data.records import ImageRecord
from medgen_data.splits import assign_splits


def write_phantom_dataset(
    dataset_dir: Path,
    *,
    num_images: int,
    size: int = 64,
    seed: int = 0,
    test_fraction: float = 0.2,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageDataset:
    """Render phantoms with known facts into a new data set folder.

    Image i depends on `seed`, `size` and i alone, never on `num_images`. Only the split looks at the
    whole set.

    Args:
        dataset_dir: Folder to make; it may exist if it is empty.
        num_images: Number of phantoms; a multiple of 16 holds each class in each quadrant equally often.
        size: Height and width in pixels.
        seed: Seed of facts, pictures and split.
        test_fraction: Share of each class that goes to the test split.
        on_progress: Called with the number of images done and their total.

    Raises:
        DataError: If the folder holds something already.
        ValueError: If `num_images` is below 1 or `size` too small.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    if dataset_dir.exists() and any(dataset_dir.iterdir()):
        raise DataError(
            f"{dataset_dir} is not empty; choose a new folder for the phantoms, or empty this one"
        )
    records = []
    for index in range(num_images):
        facts = draw_facts(index, seed)
        record = _record(index, facts)
        pixels = render_phantom(facts, size=size, seed=phantom_seed(index, seed))
        write_bytes_atomic(dataset_dir / record.file_name, encode_png(pixels), durable=False)
        records.append(record)
        if on_progress is not None:
            on_progress(index + 1, num_images)
    flush_files(dataset_dir / record.file_name for record in records)
    return write_card_and_rows(
        dataset_dir,
        records=assign_splits(records, test_fraction=test_fraction, seed=seed),
        name=f"phantoms-{num_images}-{size}px-seed{seed}",
        modality="endoscopic",
        source="rendered by medgen_data.phantoms",
        licence="CC0-1.0",
        synthetic=True,
        split_seed=seed,
    )


def phantom_seed(index: int, seed: int) -> int:
    """Return the seed of one picture of a set, independent of the stream that drew its facts."""
    return int(np.random.SeedSequence((seed, 2, index)).generate_state(1, np.uint64)[0])


def _record(index: int, facts: PhantomFacts) -> ImageRecord:
    return ImageRecord(
        file_name=f"images/phantom-{index:05d}.png",
        record_id=f"phantom-{index:05d}",
        label=facts.label,
        text=phantom_texts(facts),
        facts=facts.to_row(),
    )
