import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_data.image_folder import ImageDataset, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.records import ImageRecord
from PIL import Image

WriteImage = Callable[..., Path]


@pytest.fixture(scope="session")
def write_image() -> WriteImage:
    """Write a small smooth picture, its own for every seed, as PNG or JPEG by suffix."""

    def write(file: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, format="PNG" if file.suffix == ".png" else "JPEG", quality=95)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stream.getvalue())
        return file

    return write


@pytest.fixture
def small_dataset(tmp_path: Path) -> ImageDataset:
    """Six records of two classes, four to train and two to test."""
    root = tmp_path / "small"
    records = []
    for number in range(6):
        image = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
        file = root / f"images/r{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(image))
        records.append(
            ImageRecord(
                file_name=f"images/r{number}.png",
                record_id=f"r{number}",
                label="polyps" if number % 2 else "normal mucosa",
                split="test" if number < 2 else "train",
                text=(f"picture {number}",),
                facts={"count": number, "share": number / 8, "flat": True},
            )
        )
    return write_card_and_rows(
        root,
        records=records,
        name="small",
        modality="endoscopic",
        source="drawn",
        licence="CC0-1.0",
        synthetic=False,
        split_seed=0,
    )
