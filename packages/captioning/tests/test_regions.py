import numpy as np
import pytest
from medgen_captioning.regions import find_region
from medgen_captioning.view import see


def wall(size: int = 96, *, slope: float = 40.0) -> np.ndarray:
    """Return an unevenly lit pink wall with sensor noise, [size, size, 3] uint8."""
    light = np.linspace(-slope, slope, size)[:, None, None] * 0.5
    noise = np.random.default_rng(0).normal(0, 2, (size, size, 3))
    return np.clip(np.array([200, 125, 110]) + light + noise, 0, 255).astype(np.uint8)


def paint(
    image: np.ndarray, row: float, column: float, radius: float, rgb: tuple[int, int, int]
) -> np.ndarray:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    mask = np.hypot(rows - row, columns - column) <= radius
    image[mask] = rgb
    return mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@pytest.mark.parametrize("rgb", [(60, 90, 180), (190, 40, 40), (235, 225, 170)])
def test_a_coloured_disc_is_found_whole_on_an_unevenly_lit_wall(rgb: tuple[int, int, int]) -> None:
    image = wall()
    disc = paint(image, 30, 62, 14, rgb)
    region = find_region(see(image), "surface")
    assert region is not None
    assert overlap(region.mask, disc) > 0.8
    assert region.distinctness > 4


def test_an_even_wall_has_nothing_distinct() -> None:
    region = find_region(see(wall()), "surface")
    assert region is None or region.distinctness < 1.5


def test_the_lumen_is_not_a_finding_of_the_gut_but_a_mole_is_one_of_the_skin() -> None:
    image = wall(slope=0)
    dark = paint(image, 60, 40, 16, (35, 18, 15))
    view = see(image)
    assert overlap(view.dark, dark) > 0.8
    gut = find_region(view, "surface")
    assert gut is None or not (gut.mask & dark).any() or gut.distinctness < 1.5
    skin = find_region(view, "rim")
    assert skin is not None
    assert overlap(skin.mask, dark) > 0.8


def test_black_surround_with_lettering_is_no_part_of_the_field() -> None:
    image = wall()
    rows, columns = np.mgrid[:96, :96]
    octagon = abs(rows - 47.5) + abs(columns - 47.5) < 66
    image[~octagon] = 0
    image[4:7, 3:12] = 230  # a patient's date, as some endoscopes burn it in
    field = see(image).field
    assert not (field & ~octagon).any()
    assert np.count_nonzero(field) > 0.88 * np.count_nonzero(octagon)


def test_a_reflection_is_wet_and_not_the_region() -> None:
    image = wall()
    glint = paint(image, 25, 30, 3, (255, 253, 250))
    disc = paint(image, 65, 65, 12, (180, 60, 55))
    view = see(image)
    assert (view.wet & glint).sum() == glint.sum()
    assert not (view.wet & disc).any()
    region = find_region(view, "surface")
    assert region is not None
    assert overlap(region.mask, disc) > 0.8


def test_a_reflection_on_a_finding_belongs_to_it() -> None:
    image = wall()
    disc = paint(image, 48, 60, 14, (170, 50, 50))
    paint(image, 46, 58, 3, (255, 253, 250))
    region = find_region(see(image), "surface")
    assert region is not None
    assert region.mask[46, 58]
    assert overlap(region.mask, disc) > 0.8


def test_the_same_scene_at_four_times_the_size_gives_the_same_region() -> None:
    image = wall(64)
    paint(image, 20, 40, 10, (60, 90, 180))
    small = find_region(see(image), "surface")
    large = find_region(see(np.kron(image, np.ones((4, 4, 1), dtype=np.uint8))), "surface")
    assert small is not None
    assert large is not None
    assert np.array_equal(small.mask, large.mask)


@pytest.mark.parametrize("level", [0, 255])
def test_an_image_without_tissue_has_no_region(level: int) -> None:
    view = see(np.full((64, 80, 3), level, dtype=np.uint8))
    assert find_region(view, "surface") is None
    assert find_region(view, "rim") is None
