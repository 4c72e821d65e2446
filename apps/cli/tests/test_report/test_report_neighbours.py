from pathlib import Path

import numpy as np
import pytest
from medgen_cli.report.neighbours import find_neighbours, nearest
from medgen_data.atomic import write_bytes_atomic
from medgen_data.image_folder import ImageDataset, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.records import ImageRecord, Split


def write_grey(dataset_dir: Path, greys: dict[str, tuple[int, Split | None]]) -> ImageDataset:
    records = []
    for name, (grey, split) in greys.items():
        pixels = np.full((32, 32, 3), grey, dtype=np.uint8)
        write_bytes_atomic(dataset_dir / f"{name}.png", encode_png(pixels), durable=False)
        records.append(ImageRecord(file_name=f"{name}.png", record_id=name, split=split))
    return write_card_and_rows(
        dataset_dir,
        records=records,
        name="grey",
        modality="grey",
        source="drawn",
        licence="CC0-1.0",
        synthetic=True,
        split_seed=None,
    )


def test_matches_a_search_over_all_pairs() -> None:
    generator = np.random.default_rng(0)
    queries = generator.uniform(0, 255, (7, 12)).astype(np.float32)
    gallery = generator.uniform(0, 255, (40, 12)).astype(np.float32)
    distances, indices = nearest(queries, gallery)
    differences = queries[:, None].astype(float) - gallery[None].astype(float)
    brute = np.sqrt(np.square(differences).mean(axis=2))
    np.testing.assert_array_equal(indices, brute.argmin(axis=1))
    np.testing.assert_allclose(distances, brute.min(axis=1))


def test_a_copy_is_at_distance_exactly_zero() -> None:
    gallery = np.random.default_rng(1).uniform(0, 255, (5, 768)).astype(np.float32)
    distances, indices = nearest(gallery[3:4], gallery)
    assert (distances[0], indices[0]) == (0.0, 3)


def test_pairs_training_images_only_and_puts_the_nearest_first(tmp_path: Path) -> None:
    real = write_grey(tmp_path / "real", {"a": (10, "train"), "b": (200, "train"), "c": (101, "test")})
    synthetic = write_grey(tmp_path / "synthetic", {"x": (100, None), "y": (203, None)})
    sheet = find_neighbours(synthetic, real)
    assert [(pair.record_id, pair.neighbour_id) for pair in sheet.pairs] == [("y", "b"), ("x", "a")]
    assert [pair.distance for pair in sheet.pairs] == pytest.approx([3.0, 90.0])
    assert sheet.median == pytest.approx(46.5)
    assert sheet.held_out_median == pytest.approx(91.0)
    assert sheet.num_closer_than_held_out == 2


def test_without_splits_every_real_image_counts_and_there_is_no_yardstick(tmp_path: Path) -> None:
    real = write_grey(tmp_path / "real", {"a": (10, None), "c": (101, None)})
    sheet = find_neighbours(write_grey(tmp_path / "synthetic", {"x": (100, None)}), real)
    assert sheet.pairs[0].neighbour_id == "c"
    assert sheet.held_out_median is None
    assert sheet.num_closer_than_held_out is None
