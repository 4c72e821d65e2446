import hashlib
import shutil
from pathlib import Path

import pytest
from medgen_data.fingerprint import dataset_fingerprint, file_sha256
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_fingerprint_ignores_row_order_place_and_file_names(
    small_dataset: ImageDataset, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(small_dataset.root, moved)
    (moved / "images").rename(moved / "pictures")
    records = [
        record.model_copy(update={"file_name": record.file_name.replace("images", "pictures")})
        for record in reversed(small_dataset.records)
    ]
    assert dataset_fingerprint(moved, records) == small_dataset.card.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"record_id": "r9"},
        {"label": "normal mucosa"},
        {"label": None},
        {"group_id": "g"},
        {"split": "validation"},
        {"text": ("another",)},
        {"text": ("picture 5", "another")},
        {"facts": {"count": 5, "share": 0.625, "flat": False}},
        {"facts": {"count": 5.0, "share": 0.625, "flat": True}},
    ],
)
def test_fingerprint_feels_every_other_field(small_dataset: ImageDataset, change: dict[str, object]) -> None:
    records = [*small_dataset.records[:5], small_dataset.records[5].model_copy(update=change)]
    assert dataset_fingerprint(small_dataset.root, records) != small_dataset.card.fingerprint


def test_fingerprint_feels_pixels_and_which_record_they_belong_to(small_dataset: ImageDataset) -> None:
    first, second = (small_dataset.image_file(record) for record in small_dataset.records[:2])
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert dataset_fingerprint(small_dataset.root, small_dataset.records) != small_dataset.card.fingerprint


def test_missing_image_is_named(small_dataset: ImageDataset) -> None:
    small_dataset.image_file(small_dataset.records[3]).unlink()
    with pytest.raises(DataError, match=r"record r3: .*r3\.png is missing"):
        dataset_fingerprint(small_dataset.root, small_dataset.records)
