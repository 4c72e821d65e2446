"""A whole import: decoding, problems, resuming, splitting."""

import errno
import io
import json
import os
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from medgen_data.image_folder import check_fingerprint, read_image_folder
from medgen_data.images import decode_image, fit_square
from medgen_data.importers import ImportKind, ImportRun, import_dataset
from medgen_data.importers.run import LISTERS
from medgen_data.problems import DataError
from medgen_data.splits import find_leaks
from PIL import Image

WriteImage = Callable[..., Path]


def run(
    source_dir: Path, dataset_dir: Path, kind: ImportKind = "class-folders", **change: object
) -> ImportRun:
    options = {
        "size": 8,
        "test_fraction": 0.2,
        "split_seed": 0,
        "modality": "endoscopic",
        "licence": "CC0-1.0",
        "source": "drawn",
        **change,
    }
    return import_dataset(kind, source_dir, dataset_dir, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def source_dir(tmp_path: Path, write_image: WriteImage) -> Path:
    """Two classes of ten images."""
    for number in range(20):
        label = ("normal-mucosa", "polyps")[number % 2]
        write_image(tmp_path / f"kvasir/{label}/{number}.jpg", number)
    return tmp_path / "kvasir"


def huge_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def animated_gif() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 99, 200)]
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def test_every_layout_has_a_lister_and_every_lister_a_layout() -> None:
    assert set(LISTERS) == set(get_args(ImportKind))


def test_pixels_rows_and_card_are_what_was_asked_for(source_dir: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = run(source_dir, tmp_path / "set", policy="pad", on_progress=lambda *step: seen.append(step))
    assert done.problems == ()
    assert done.dataset == read_image_folder(tmp_path / "set")
    check_fingerprint(done.dataset)
    assert (done.dataset.card.name, done.dataset.card.labels) == ("kvasir", ("normal mucosa", "polyps"))
    assert Counter((r.label, r.split) for r in done.dataset.records) == {
        (label, split): count
        for label in ("normal mucosa", "polyps")
        for split, count in (("train", 8), ("test", 2))
    }
    for record in done.dataset.records:
        label, number = record.record_id.rsplit("-", 1)
        expected = fit_square(decode_image(source_dir / label / f"{number}.jpg"), 8, policy="pad")
        np.testing.assert_array_equal(decode_image(done.dataset.image_file(record)), expected)
    assert seen == [(number, 20) for number in range(1, 21)]
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "images",
        "dataset.json",
        "metadata.jsonl",
        "problems.jsonl",
        "import.json",
    }


def test_import_is_reproducible_byte_for_byte(source_dir: Path, tmp_path: Path) -> None:
    run(source_dir, tmp_path / "one")
    run(source_dir, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_three_hundred_images_with_one_percent_bad_of_each_kind(
    tmp_path: Path, write_image: WriteImage
) -> None:
    source = tmp_path / "source"
    for number in range(300):
        write_image(source / f"class-{number % 3}/{number:03d}.jpg", number)
    whole = (source / "class-2/299.jpg").read_bytes()
    bad = {
        "empty-file": b"",
        "not-an-image": b"<!DOCTYPE html><title>404 Not Found</title>",
        "truncated": whole[: len(whole) // 2],
        "too-large": huge_png(),
        "animated": animated_gif(),
    }
    expected = {}
    for kind_number, (code, content) in enumerate(bad.items()):
        for copy in range(3):
            number = 50 * kind_number + copy
            name = f"class-{number % 3}/{number:03d}.jpg"
            (source / name).write_bytes(content)
            expected[name] = code
    done = run(source, tmp_path / "set")
    assert {problem.file: problem.code for problem in done.problems} == expected
    assert len(done.dataset.records) == 285
    rows = [json.loads(line) for line in (tmp_path / "set/problems.jsonl").read_text().splitlines()]
    assert {row["file"]: row["code"] for row in rows} == expected
    assert set(rows[0]) == {"file", "row", "field", "code", "detail"}
    check_fingerprint(read_image_folder(tmp_path / "set"))


def test_odd_but_sound_images_are_done(tmp_path: Path, write_image: WriteImage) -> None:
    source = tmp_path / "source/a"
    write_image(source / "rgb.jpg")
    Image.new("CMYK", (9, 9), (255, 0, 0, 0)).save(source / "cmyk.jpg", quality=100)
    Image.fromarray(np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)).save(source / "deep.png")
    Image.new("RGBA", (9, 9), (200, 0, 0, 0)).save(source / "alpha.png")
    done = run(source.parent, tmp_path / "set", test_fraction=0)
    assert done.problems == ()
    by_id = {
        record.record_id: decode_image(done.dataset.image_file(record)) for record in done.dataset.records
    }
    np.testing.assert_allclose(by_id["a-cmyk"][4, 4], [0, 255, 255], atol=3)
    assert len(np.unique(by_id["a-deep"])) > 50
    assert by_id["a-alpha"].max() == 0


def test_all_bad_is_an_error_that_still_lists_the_reasons(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"source/c{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"source/c{number % 2}/{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no image can be used, 4 problems: c0/0\.png: is empty.*and 1 more"):
        run(tmp_path / "source", tmp_path / "set")
    assert len((tmp_path / "set/problems.jsonl").read_text().splitlines()) == 4
    assert not (tmp_path / "set/dataset.json").exists()


def test_missing_source_and_unfit_target_are_refused(source_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source folder .*nowhere does not exist; check the path"):
        run(tmp_path / "nowhere", tmp_path / "set")
    with pytest.raises(DataError, match="lies in its own source"):
        run(source_dir, source_dir / "set")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.txt").touch()
    with pytest.raises(DataError, match="is not empty and holds no import of ours; choose an empty folder"):
        run(source_dir, tmp_path / "used")
    with pytest.raises(DataError, match="is a file; choose another name"):
        run(source_dir, tmp_path / "used/thesis.txt")


def test_empty_class_is_a_problem_and_one_image_an_error(
    source_dir: Path, tmp_path: Path, write_image: WriteImage
) -> None:
    (source_dir / "ulcer").mkdir()
    (problem,) = run(source_dir, tmp_path / "set").problems
    assert str(problem).startswith("ulcer: is a class folder without images; add images or remove it")
    write_image(source_dir / "ulcer/a.jpg")
    with pytest.raises(DataError, match=r"too few images or groups in class ulcer \(1\); add images"):
        run(source_dir, tmp_path / "other")
    assert not (tmp_path / "other").exists()  # found out before anything was decoded


def test_unknown_label_is_a_problem_if_the_labels_are_given(
    source_dir: Path, tmp_path: Path, write_image: WriteImage
) -> None:
    write_image(source_dir / "ulcer/a.jpg")
    done = run(source_dir, tmp_path / "set", allowed_labels=["polyps", "normal mucosa"])
    assert [(p.file, p.field, p.code) for p in done.problems] == [("ulcer/a.jpg", "label", "unknown-label")]
    assert "has label 'ulcer', expected one of polyps, normal mucosa" in done.problems[0].detail
    assert len(done.dataset.records) == 20


class KilledError(Exception):
    """Stands for a kill between two images."""


def test_killed_import_goes_on_where_it_stopped(source_dir: Path, tmp_path: Path) -> None:
    run(source_dir, tmp_path / "whole")

    def kill(done: int, total: int) -> None:
        if done == 12:
            raise KilledError

    with pytest.raises(KilledError):
        run(source_dir, tmp_path / "set", on_progress=kill)
    with pytest.raises(DataError, match=r"not a finished data set.*interrupted import again"):
        read_image_folder(tmp_path / "set")
    images = sorted((tmp_path / "set/images").iterdir())
    assert len(images) == 12
    images[0].write_bytes(images[1].read_bytes())  # as if a power cut had spoilt it
    images[2].with_name(".x.png.abc.partial").write_bytes(b"half")
    with (tmp_path / "set/.import-journal.jsonl").open("ab") as journal:
        journal.write(b'{"record_id": "norm')
    kept = {image: image.stat().st_mtime_ns for image in images}
    run(source_dir, tmp_path / "set")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")
    assert [image for image in images if image.stat().st_mtime_ns != kept[image]] == [images[0]]


def test_import_killed_twice_does_no_image_again(source_dir: Path, tmp_path: Path) -> None:
    def kill_at(number: int) -> Callable[[int, int], None]:
        def kill(done: int, total: int) -> None:
            if done == number:
                raise KilledError

        return kill

    for number in (5, 15):
        with pytest.raises(KilledError):
            run(source_dir, tmp_path / "set", on_progress=kill_at(number))
        with (tmp_path / "set/.import-journal.jsonl").open("ab") as journal:
            journal.write(b'{"record_id": "norm')
    kept = {image: image.stat().st_mtime_ns for image in (tmp_path / "set/images").iterdir()}
    assert len(kept) == 15
    run(source_dir, tmp_path / "set")
    assert {image: image.stat().st_mtime_ns for image in kept} == kept


def test_resumed_import_notices_an_exchanged_source(
    source_dir: Path, tmp_path: Path, write_image: WriteImage
) -> None:
    def kill(done: int, total: int) -> None:
        if done == 20:
            raise KilledError

    with pytest.raises(KilledError):
        run(source_dir, tmp_path / "set", on_progress=kill)
    write_image(source_dir / "polyps/1.jpg", seed=99)
    (source_dir / "polyps/3.jpg").unlink()
    done = run(source_dir, tmp_path / "set")
    record = next(record for record in done.dataset.records if record.record_id == "polyps-1")
    expected = fit_square(decode_image(source_dir / "polyps/1.jpg"), 8)
    np.testing.assert_array_equal(decode_image(done.dataset.image_file(record)), expected)
    assert not (tmp_path / "set/images/polyps-3.png").exists()


def test_finished_import_is_returned_untouched_with_its_problems(source_dir: Path, tmp_path: Path) -> None:
    (source_dir / "polyps/1.jpg").write_bytes(b"")
    first = run(source_dir, tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    assert run(source_dir, tmp_path / "set") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before
    assert [problem.code for problem in first.problems] == ["empty-file"]


def test_other_settings_or_another_source_need_another_folder(
    source_dir: Path, tmp_path: Path, write_image: WriteImage
) -> None:
    run(source_dir, tmp_path / "set")
    with pytest.raises(DataError, match="with other settings: size 8, now 16 changed; choose another folder"):
        run(source_dir, tmp_path / "set", size=16)
    with pytest.raises(DataError, match=r"test_fraction 0\.2, now 0\.3 changed"):
        run(source_dir, tmp_path / "set", test_fraction=0.3)
    write_image(source_dir / "polyps/new.jpg")
    with pytest.raises(DataError, match="the source changed; choose another folder"):
        run(source_dir, tmp_path / "set")


def test_full_disk_in_the_middle_is_one_line_and_the_import_resumes(
    source_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source_dir, tmp_path / "whole")
    write, num_calls = os.write, 0

    def filling(descriptor: int, content: bytes) -> int:
        nonlocal num_calls
        num_calls += 1
        if num_calls > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        with pytest.raises(DataError, match=r"\.png: no room to write \d+ bytes .*free space"):
            run(source_dir, tmp_path / "set")
    assert not list((tmp_path / "set").rglob("*.partial"))
    run(source_dir, tmp_path / "set")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_full_disk_at_the_end_leaves_no_card(
    source_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="no room to write"):
            run(source_dir, tmp_path / "set")
    assert not (tmp_path / "set/dataset.json").exists()
    assert len(run(source_dir, tmp_path / "set").dataset.records) == 20


def test_limit_takes_each_class_in_proportion_and_is_seeded(tmp_path: Path, write_image: WriteImage) -> None:
    for number in range(60):
        write_image(
            tmp_path / f"source/{'rare' if number % 6 == 0 else 'common'}/{number}.png", number, (4, 4)
        )
    one = run(tmp_path / "source", tmp_path / "one", limit=24).dataset.records
    two = run(tmp_path / "source", tmp_path / "two", limit=24, split_seed=1).dataset.records
    assert Counter(record.label for record in one) == {"rare": 4, "common": 20}
    assert {record.record_id for record in one} != {record.record_id for record in two}
    tiny = run(tmp_path / "source", tmp_path / "tiny", limit=8, test_fraction=0.2, validation_fraction=0.2)
    assert Counter(record.label for record in tiny.dataset.records) == {"rare": 3, "common": 5}


def test_limited_ham10000_holds_many_lesions_and_never_splits_one(
    tmp_path: Path, write_image: WriteImage
) -> None:
    lines = ["lesion_id,image_id,dx"]
    for number in range(40):
        write_image(tmp_path / f"source/HAM10000_images/ISIC_{number}.jpg", number)
        lines.append(f"HAM_{number // 4},ISIC_{number},{'nv' if number < 20 else 'mel'}")
    (tmp_path / "source/HAM10000_metadata.csv").write_text("\n".join(lines))
    whole = run(tmp_path / "source", tmp_path / "whole", "ham10000").dataset
    assert find_leaks(whole.records) == ()
    assert Counter(record.label for record in whole.records if record.split == "test") == {
        "melanocytic nevus": 4,
        "melanoma": 4,
    }
    part = run(tmp_path / "source", tmp_path / "part", "ham10000", limit=10).dataset
    assert len({record.group_id for record in part.records}) == 10


def test_labelled_csv_keeps_facts_and_row_numbers(tmp_path: Path, write_image: WriteImage) -> None:
    lines = ["file;label;n_polyps"]
    for number in range(6):
        write_image(tmp_path / f"source/images/{number}.jpg", number)
        lines.append(f"{number}.jpg;polyp;{number}")
    (tmp_path / "source/images/4.jpg").write_bytes(b"GIF89a")
    (tmp_path / "source/labels.csv").write_text("\n".join(lines))
    done = run(tmp_path / "source", tmp_path / "set", "labelled-csv")
    assert [record.facts["n_polyps"] for record in done.dataset.records] == [0, 1, 2, 3, 5]
    (problem,) = done.problems
    assert (problem.file, problem.row) == ("images/4.jpg", 6)


def test_dataset_survives_moving_house(source_dir: Path, tmp_path: Path) -> None:
    done = run(source_dir, tmp_path / "set")
    shutil.move(tmp_path / "set", tmp_path / "elsewhere")
    moved = read_image_folder(tmp_path / "elsewhere")
    check_fingerprint(moved)
    assert moved.records == done.dataset.records
