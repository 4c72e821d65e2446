"""Quick blob pictures: the class is a colour, the quadrant a place, known exactly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_data.atomic import write_bytes_atomic
from medgen_data.image_folder import ImageDataset, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.records import Generation, ImageRecord

COLOURS = {"blue": (60, 80, 190), "green": (70, 170, 80), "red": (220, 50, 50)}
QUADRANTS = ("upper-left", "upper-right", "lower-left", "lower-right")

MakeSet = Callable[..., ImageDataset]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def blob(colour: str, quadrant: int, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] / size
    row = 0.25 + 0.5 * (quadrant // 2) + rng.uniform(-0.06, 0.06)
    column = 0.25 + 0.5 * (quadrant % 2) + rng.uniform(-0.06, 0.06)
    inside = (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(0.1, 0.16) ** 2
    picture = np.array([190, 130, 120]) + rng.normal(0, 8, (size, size, 3))
    picture[inside] = np.array(COLOURS[colour]) + rng.normal(0, 8, (int(inside.sum()), 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Return a function that writes a blob set; image i has colour i % 3 and quadrant i % 4.

    `shown` gives the colour that is drawn for a labelled one.
    """

    def write(
        name: str,
        *,
        num_images: int = 24,
        seed: int = 0,
        generated: bool = False,
        colours: tuple[str, ...] = tuple(COLOURS),
        split: Callable[[int], str | None] = lambda index: None,
        group: Callable[[int], str | None] = lambda index: None,
        shown: Callable[[str, int], str] = lambda colour, index: colour,
    ) -> ImageDataset:
        rng = np.random.default_rng(seed)
        records = []
        for index in range(num_images):
            colour, quadrant = colours[index % len(colours)], index % 4
            record = ImageRecord(
                file_name=f"images/{index:04d}.png",
                record_id=f"{name}-{index:04d}",
                label=colour,
                group_id=group(index),
                split=split(index),
                facts={"quadrant": QUADRANTS[quadrant], "serial": index},
                generation=_generation(index) if generated else None,
            )
            content = encode_png(blob(shown(colour, index), quadrant, rng))
            write_bytes_atomic(tmp_path / name / record.file_name, content, durable=False)
            records.append(record)
        return write_card_and_rows(
            tmp_path / name,
            records=records,
            name=name,
            modality="endoscopic",
            source="drawn for a test",
            licence="CC0-1.0",
            synthetic=generated,
            split_seed=None,
        )

    return write


def _generation(index: int) -> Generation:
    return Generation(
        prompt="a blob",
        seed=index,
        model_sha256="0" * 64,
        num_inference_steps=1,
        guidance_scale=1.0,
        solver="ddim",
    )
