from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from medgen_metrics.extract import extract_features
from medgen_metrics.features.random_network import RandomExtractor
from medgen_metrics.image_sets import ImageFileError
from PIL import Image
from torch import Tensor

Write = Callable[..., list[Path]]


class CountingExtractor(RandomExtractor):
    """Counts the images it is asked for."""

    num_images = 0

    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        self.num_images += len(pixel_values)
        return super().from_pixel_values(pixel_values)


def test_features_are_those_of_the_extractor_in_file_order(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 5, seed=0)
    extractor = RandomExtractor(0)
    extracted = extract_features(files, extractor, features_dir=tmp_path / "f", batch_size=2)
    for file, feature in zip(files, extracted.feature_set.features, strict=True):
        with Image.open(file) as image:
            pixels = (
                torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
                .view(40, 40, 3)
                .permute(2, 0, 1)
            )
        torch.testing.assert_close(feature, extractor(pixels[None])[0], rtol=1e-5, atol=1e-6)


def test_second_run_computes_nothing_and_is_bit_equal(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 6, seed=0)
    first = extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f")
    counting = CountingExtractor(0)
    second = extract_features(files[::-1], counting, features_dir=tmp_path / "f")
    assert counting.num_images == 0
    assert torch.equal(second.feature_set.features.flip(0), first.feature_set.features)
    assert second.fingerprint == first.fingerprint


def test_copies_are_computed_once_and_counted_twice(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 2, seed=0)
    counting = CountingExtractor(0)
    extracted = extract_features([*files, files[0]], counting, features_dir=tmp_path / "f")
    assert counting.num_images == 2
    assert torch.equal(extracted.feature_set.features[0], extracted.feature_set.features[2])


def test_renamed_image_is_found_and_edited_image_is_not(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 3, seed=0)
    extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f")
    moved = files[0].rename(files[0].with_name("moved.png"))
    Image.new("RGB", (40, 40), (9, 9, 9)).save(files[1])
    counting = CountingExtractor(0)
    extract_features([moved, files[1], files[2]], counting, features_dir=tmp_path / "f")
    assert counting.num_images == 1


def test_work_before_a_bad_file_is_kept(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 4, seed=0)
    damaged = files[3].read_bytes()
    files[3].write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(ImageFileError, match=r"003\.png: is damaged"):
        extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f", batch_size=1)
    files[3].write_bytes(damaged)
    counting = CountingExtractor(0)
    extract_features(files, counting, features_dir=tmp_path / "f")
    assert counting.num_images == 1


def test_progress_ends_at_all(image_folder: Write, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    extract_features(
        image_folder("a", 5, seed=0),
        RandomExtractor(0),
        features_dir=tmp_path / "f",
        batch_size=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_sixteen_bit_range_is_part_of_the_feature_space(tmp_path: Path) -> None:
    scan = tmp_path / "scan.png"
    Image.fromarray((torch.arange(1600).view(40, 40) * 2).to(torch.uint16).numpy()).save(scan)
    full, narrow = (
        extract_features([scan], RandomExtractor(0), features_dir=tmp_path / "f", sixteen_bit_range=limits)
        for limits in ((0, 65535), (0, 4095))
    )
    assert narrow.feature_set.space.preprocessing.startswith("16-bit 0..4095, bicubic-antialias")
    assert not torch.equal(full.feature_set.features, narrow.feature_set.features)


def test_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one image file"):
        extract_features([], RandomExtractor(0), features_dir=tmp_path)
