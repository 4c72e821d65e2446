import base64
import io
from pathlib import Path

import numpy as np
import pytest
from medgen_cli.report.thumbnails import read_picture, spread
from medgen_data.records import ImageRecord
from PIL import Image


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_a_small_image_keeps_every_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", max_side=128)
    np.testing.assert_array_equal(pixels_of(picture.uri), pixels)
    assert (picture.width, picture.height) == (64, 40)


def test_a_large_image_is_scaled_and_keeps_its_shape_and_colour(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), (200, 40, 90)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", max_side=128)
    assert (picture.width, picture.height) == (128, 64)
    assert picture.uri.startswith("data:image/jpeg;base64,")
    np.testing.assert_allclose(pixels_of(picture.uri).mean(axis=(0, 1)), [200, 40, 90], atol=2)


@pytest.mark.parametrize(("num_records", "count"), [(3, 8), (8, 8), (100, 8), (9, 2)])
def test_the_shown_records_are_spread_in_order(num_records: int, count: int) -> None:
    records = [ImageRecord(file_name=f"{n}.png", record_id=str(n)) for n in range(num_records)]
    places = [int(record.record_id) for record in spread(records, count)]
    assert len(places) == len(set(places)) == min(num_records, count)
    assert places == sorted(places)
    if num_records > count:
        gaps = np.diff([-places[0] - 1, *places, 2 * num_records - places[-1] - 1])
        assert gaps.max() - gaps.min() <= 2
