import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_data.image_folder import write_card_and_rows
from medgen_data.images import encode_png, fit_square
from medgen_data.near_duplicates import NUM_BITS, find_near_duplicates, perceptual_hash
from medgen_data.records import ImageRecord
from PIL import Image


def picture(seed: int, size: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def recompress(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=60)
    return np.array(Image.open(stream))


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int((perceptual_hash(a) != perceptual_hash(b)).sum())


@pytest.mark.parametrize(
    "change",
    [
        recompress,
        lambda image: (image * 0.7 + 20).astype(np.uint8),
        lambda image: fit_square(image, 48),
        lambda image: np.clip(image + np.random.default_rng(9).normal(0, 4, image.shape), 0, 255).astype(
            np.uint8
        ),
    ],
    ids=["jpeg", "contrast", "scale", "noise"],
)
def test_hash_hardly_feels_what_leaves_the_content(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert max(distance(picture(seed), change(picture(seed))) for seed in range(5)) <= 60


def test_unrelated_pictures_differ_in_about_half_of_the_bits() -> None:
    distances = [distance(picture(a), picture(b)) for a in range(6) for b in range(a)]
    assert min(distances) > 100
    assert np.mean(distances) == pytest.approx(NUM_BITS / 2, rel=0.15)


def test_hash_is_that_of_a_ramp() -> None:
    ramp = np.repeat(np.arange(0, 255, 3, dtype=np.uint8)[None, :, None], 85, axis=0).repeat(3, axis=2)
    bits = perceptual_hash(ramp)
    assert bits[: NUM_BITS // 2].all()  # grows to the right everywhere
    assert not bits[NUM_BITS // 2 :].any()  # and nowhere downwards


def test_look_alikes_are_found_across_splits_only(tmp_path: Path) -> None:
    images = {
        "train-1": picture(1),
        "train-2": picture(2),
        "train-3": recompress(picture(2)),  # a look-alike, but on the same side
        "test-1": recompress(picture(1)),
        "test-2": picture(4),
        "test-3": picture(3),
        "train-4": (picture(3) * 0.9).astype(np.uint8),
    }
    records = []
    for record_id, image in images.items():
        (tmp_path / f"{record_id}.png").write_bytes(encode_png(image))
        split = record_id.split("-")[0]
        records.append(ImageRecord(file_name=f"{record_id}.png", record_id=record_id, split=split))
    dataset = write_card_and_rows(
        tmp_path,
        records=records,
        name="",
        modality="",
        source="",
        licence="",
        synthetic=False,
        split_seed=None,
    )
    leaks = find_near_duplicates(dataset)
    assert {leak.record_ids for leak in leaks} == {("train-1", "test-1"), ("test-3", "train-4")}
    assert all(leak.kind == "near-duplicate" and set(leak.splits) == {"train", "test"} for leak in leaks)
    assert "hash bits" in leaks[0].detail
