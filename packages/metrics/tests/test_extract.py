import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_metrics import extract as extract_module
from medgen_metrics.extract import extract_batches, extract_features, extract_many
from medgen_metrics.features.random_network import RandomExtractor
from medgen_metrics.image_decoding import ImageFileError, decode_image
from medgen_metrics.image_sets import list_image_files
from medgen_metrics.preprocessing import Preprocessing
from PIL import Image
from safetensors.torch import load_file
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


class SmallExtractor(CountingExtractor):
    """Takes another size, so that it needs a preprocessing of its own."""

    preprocessing = Preprocessing(size=32, mean=(127.5,) * 3, std=(127.5,) * 3, resize="bilinear-tf1")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded, as often as they are."""
    names: list[str] = []

    def record(content: bytes, image_file: Path, **options: object) -> Tensor:
        names.append(image_file.name)
        return decode_image(content, image_file, **options)

    monkeypatch.setattr(extract_module, "decode_image", record)
    return names


def test_many_networks_decode_each_image_once(
    image_folder: Write, tmp_path: Path, decoded: list[str]
) -> None:
    files = image_folder("a", 7, seed=0)
    extractors = [CountingExtractor(0), CountingExtractor(1), SmallExtractor(2)]
    extract_many([*files, files[0]], extractors, features_dir=tmp_path / "f", batch_size=3)
    assert sorted(decoded) == [file.name for file in files]
    assert [extractor.num_images for extractor in extractors] == [7, 7, 7]


def test_many_networks_give_the_bytes_of_each_alone(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 8, seed=0)
    # The first network has seen three of the images before, so the networks lack different ones.
    for folder in ("many", "alone"):
        extract_features(files[2:5], RandomExtractor(0), features_dir=tmp_path / folder, batch_size=3)
    extractors = [RandomExtractor(0), SmallExtractor(1)]
    many = extract_many(files, extractors, features_dir=tmp_path / "many", batch_size=3)
    assert list(many) == ["random:0", "random:1"]
    for extractor in extractors:
        alone = extract_features(files, extractor, features_dir=tmp_path / "alone", batch_size=3)
        assert torch.equal(many[extractor.id].feature_set.features, alone.feature_set.features)
        assert many[extractor.id].feature_set.space == alone.feature_set.space
        assert many[extractor.id].files == alone.files
    # Shards too: the same batches under the same names (only the order within a header is left to chance).
    written = [
        {file.relative_to(tmp_path / folder): load_file(file) for file in (tmp_path / folder).rglob("*.s*")}
        for folder in ("many", "alone")
    ]
    assert written[0].keys() == written[1].keys()
    assert len(written[0]) == 6
    for shard, tensors in written[0].items():
        assert torch.equal(tensors["features"], written[1][shard]["features"])


def test_each_network_resumes_where_it_was(image_folder: Write, tmp_path: Path, decoded: list[str]) -> None:
    files = image_folder("a", 6, seed=0)
    first, second = CountingExtractor(0), CountingExtractor(1)
    extract_features(files[:4], first, features_dir=tmp_path / "f")
    extract_features(files[:2], second, features_dir=tmp_path / "f")
    decoded.clear()
    seen: list[tuple[int, int]] = []
    extract_many(
        files,
        [first, second],
        features_dir=tmp_path / "f",
        batch_size=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (first.num_images, second.num_images) == (6, 6)
    assert sorted(decoded) == [file.name for file in files[2:]]
    assert seen == [(6, 12), (8, 12), (10, 12), (12, 12)]


def test_networks_need_names_of_their_own(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 1, seed=0)
    with pytest.raises(ValueError, match=r"unequal ids, got \['random:0', 'random:0'\]"):
        extract_many(files, [RandomExtractor(0), SmallExtractor(0)], features_dir=tmp_path)
    with pytest.raises(ValueError, match="at least one extractor"):
        extract_many(files, [], features_dir=tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        extract_many(files, [RandomExtractor(0)], features_dir=tmp_path, batch_size=0)


def test_archive_has_the_features_of_its_folder(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 5, seed=0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    from_folder = extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f")
    counting = CountingExtractor(0)
    from_zip = extract_features(list_image_files(tmp_path / "a.zip"), counting, features_dir=tmp_path / "f")
    assert counting.num_images == 0
    assert torch.equal(from_zip.feature_set.features, from_folder.feature_set.features)
    assert from_zip.fingerprint == from_folder.fingerprint
    assert from_zip.feature_set.record_ids[0] == (tmp_path / "a.zip" / "000.png").as_posix()


def test_file_that_changes_meanwhile_is_not_stored_under_its_old_name(
    image_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = image_folder("a", 2, seed=0)
    inspect = extract_module._inspect

    def inspect_then_change(image_file: Path) -> extract_module.ImageFile:
        inspected = inspect(image_file)
        Image.new("RGB", (40, 40), (9, 9, 9)).save(image_file)
        return inspected

    monkeypatch.setattr(extract_module, "_inspect", inspect_then_change)
    with pytest.raises(ImageFileError, match=r"000\.png: changed while the set was being read"):
        extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f")


def batches_of(images: Tensor, *sizes: int) -> Iterator[Tensor]:
    yield from torch.split(images, sizes)


def random_images(num_images: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, 20, 30), generator=generator).to(torch.uint8)


def test_batches_of_a_generator_are_encoded_in_their_order() -> None:
    images = random_images(7)
    extractors = [RandomExtractor(0), SmallExtractor(1)]
    features = extract_batches(batches_of(images, 1, 4, 2), extractors, batch_size=3)
    for extractor in extractors:
        feature_set = features[extractor.id]
        torch.testing.assert_close(feature_set.features, extractor(images), rtol=1e-5, atol=1e-6)
        assert feature_set.record_ids == tuple("0123456")


def test_arrays_floats_and_bytes_of_one_picture_have_one_feature() -> None:
    images = random_images(3)
    forms: list[tuple[object, tuple[float, float] | None]] = [
        (images, None),
        (images.permute(0, 2, 3, 1).numpy(), None),
        (list(images.permute(0, 2, 3, 1).numpy()), None),
        (images / 255, (0, 1)),
        (images.double() / 127.5 - 1, (-1, 1)),
        (np.asarray(images.permute(0, 2, 3, 1)) / np.float32(255), (0, 1)),
    ]
    results = [
        extract_batches([batch], [RandomExtractor(0)], value_range=value_range)["random:0"]
        for batch, value_range in forms
    ]
    for result in results[1:]:
        assert torch.equal(result.features, results[0].features)
        assert result.space == results[0].space


def test_batches_have_the_features_of_the_files_they_were_read_from(
    image_folder: Write, tmp_path: Path
) -> None:
    files = image_folder("a", 4, seed=0)
    from_files = extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f")
    images = torch.stack([decode_image(file.read_bytes(), file) for file in files])
    from_batches = extract_batches([images], [RandomExtractor(0)])["random:0"]
    assert torch.equal(from_batches.features, from_files.feature_set.features)
    assert from_batches.space == from_files.feature_set.space


def test_cached_batches_are_not_encoded_again_and_copies_once(tmp_path: Path) -> None:
    images = random_images(4)
    counting = CountingExtractor(0)
    extract_batches([images, images[:2]], [counting], features_dir=tmp_path)
    assert counting.num_images == 4
    again = extract_batches([images.flip(0)], [counting], features_dir=tmp_path)["random:0"]
    assert counting.num_images == 4
    torch.testing.assert_close(again.features, RandomExtractor(0)(images).flip(0), rtol=1e-5, atol=1e-6)


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch of images"):
        extract_batches([], [RandomExtractor(0)])


SLOW_RUN = """
    import hashlib, sys, time
    from pathlib import Path
    from medgen_metrics.extract import extract_many
    from medgen_metrics.features.random_network import RandomExtractor

    class Slow(RandomExtractor):
        def from_pixel_values(self, pixel_values):
            features = super().from_pixel_values(pixel_values)
            with open(sys.argv[2], "a") as log:
                for one in pixel_values:
                    log.write(self.id + " " + hashlib.sha256(one.numpy().tobytes()).hexdigest() + "\\n")
            time.sleep(0.02)
            return features

    files = sorted(Path(sys.argv[1]).glob("*.png"))
    extract_many(files, [Slow(0), Slow(1)], features_dir=Path(sys.argv[3]), batch_size=4)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_run_resumes_and_computes_nothing_stored_again(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("a", 200, seed=0, size=8)
    log, features_dir, batch_size = tmp_path / "log", tmp_path / "f", 4
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(SLOW_RUN),
        str(files[0].parent),
        str(log),
        str(features_dir),
    ]
    log.touch()
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        deadline = time.monotonic() + 60
        while log.read_text().count("\n") < 120 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    before = Counter(log.read_text().split("\n"))

    class Logging(RandomExtractor):
        """Counts as the killed run did."""

        num_images = 0

        def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
            self.num_images += len(pixel_values)
            return super().from_pixel_values(pixel_values)

    extractors = [Logging(0), Logging(1)]
    resumed = extract_many(files, extractors, features_dir=features_dir, batch_size=batch_size)
    for extractor in extractors:
        computed_before = sum(count for line, count in before.items() if line.startswith(extractor.id))
        assert 0 < computed_before < 200
        # Nothing but the batch that was never finished can have been computed twice.
        assert 200 - computed_before <= extractor.num_images <= 200 - computed_before + batch_size
        whole = extract_features(
            files, RandomExtractor(int(extractor.id[-1])), features_dir=tmp_path / "whole"
        )
        torch.testing.assert_close(
            resumed[extractor.id].feature_set.features, whole.feature_set.features, rtol=1e-5, atol=1e-6
        )
    assert max(before.values()) == 1
    # A third run has nothing left to do.
    extract_many(files, (third := [Logging(0), Logging(1)]), features_dir=features_dir)
    assert [extractor.num_images for extractor in third] == [0, 0]
