from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medgen_metrics.image_decoding import ImageFileError
from medgen_metrics.pairs_sheet import write_pairs_sheet
from medgen_metrics.privacy import CopyPair
from PIL import Image

Flat = Callable[[str, tuple[int, int, int], tuple[int, int]], Path]


@pytest.fixture
def flat(tmp_path: Path) -> Flat:
    def write(name: str, colour: tuple[int, int, int], size: tuple[int, int]) -> Path:
        Image.new("RGB", size, colour).save(tmp_path / name)
        return tmp_path / name

    return write


def pair_of(sample: Path, train: Path) -> CopyPair:
    return CopyPair(
        synthetic_id=sample.as_posix(),
        train_id=train.as_posix(),
        flagged=True,
        suspicion=0.25,
        space="pixels:16",
        view="flip-horizontal",
        distance=0.01,
        distance_ratio=0.1,
    )


def test_sample_stands_left_of_its_training_image_and_text_right_of_both(flat: Flat, tmp_path: Path) -> None:
    pair = pair_of(flat("a.png", (0, 160, 0), (300, 300)), flat("b.png", (0, 0, 200), (300, 300)))
    write_pairs_sheet(tmp_path / "out" / "sheet.png", [pair, pair], tile_size=100)
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.png"))
    green = (sheet == (0, 160, 0)).all(axis=2)
    blue = (sheet == (0, 0, 200)).all(axis=2)
    # A frame of three pixels covers two at each edge.
    assert green.sum() == blue.sum() == 2 * 96 * 96
    assert np.nonzero(green.any(axis=0))[0].max() < np.nonzero(blue.any(axis=0))[0].min()
    right = sheet[:, np.nonzero(blue.any(axis=0))[0].max() + 10 :]
    assert (right < 128).all(axis=2).any()
    assert (np.abs(right.astype(int) - (190, 30, 30)).sum(axis=2) < 30).any()


def test_images_keep_their_aspect_ratio_and_small_ones_are_enlarged(flat: Flat, tmp_path: Path) -> None:
    pair = replace(
        pair_of(flat("wide.png", (0, 160, 0), (200, 50)), flat("small.png", (0, 0, 200), (20, 10))),
        flagged=False,
    )
    write_pairs_sheet(tmp_path / "sheet.png", [pair], tile_size=100)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    green, blue = ((sheet == colour).all(axis=2) for colour in ((0, 160, 0), (0, 0, 200)))
    assert (green.any(axis=1).sum(), green.any(axis=0).sum()) == (25, 100)
    assert (blue.any(axis=1).sum(), blue.any(axis=0).sum()) == (50, 100)
    assert not (sheet == (190, 30, 30)).all(axis=2).any()


def test_long_and_foreign_file_names_fit(flat: Flat, tmp_path: Path) -> None:
    strange = flat("Bild-ß-画像-" + "x" * 150 + ".png", (9, 9, 9), (10, 10))
    write_pairs_sheet(tmp_path / "sheet.png", [pair_of(strange, strange)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "RGB"


def test_bad_input_leaves_no_file(flat: Flat, tmp_path: Path) -> None:
    sheet_file = tmp_path / "sheet.png"
    with pytest.raises(ValueError, match=r"expected 1 to 500 pairs .*got 0 pairs"):
        write_pairs_sheet(sheet_file, [])
    pair = pair_of(flat("a.png", (1, 2, 3), (9, 9)), tmp_path / "gone.png")
    with pytest.raises(ImageFileError, match=r"gone\.png: no such file"):
        write_pairs_sheet(sheet_file, [pair])
    assert not sheet_file.exists()
