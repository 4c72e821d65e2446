import numpy as np
import pytest
from medgen_captioning.colours import to_lab
from medgen_captioning.measurement import (
    find_lumen,
    fit_ellipse,
    main_colours,
    measure_region,
    place_in_field,
    roughness,
    wet_share,
)
from medgen_captioning.regions import Region
from medgen_captioning.view import View


def ellipse(long: float, short: float, turn: float, *, size: int = 80) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    along = rows * np.sin(turn) + columns * np.cos(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def view_of(lightness: np.ndarray, *, wet: np.ndarray | None = None) -> View:
    lab = np.stack([lightness, np.full_like(lightness, 20.0), np.full_like(lightness, 15.0)], axis=-1)
    everything = np.ones(lightness.shape, dtype=bool)
    nothing = ~everything
    return View(lab.astype(np.float32), everything, nothing if wet is None else wet, lightness < 20)


@pytest.mark.parametrize("turn", [0.0, 0.4, 1.2])
@pytest.mark.parametrize(("long", "short"), [(15.0, 15.0), (24.0, 12.0), (30.0, 10.0)])
def test_elongation_of_an_ellipse_is_the_ratio_of_its_axes(long: float, short: float, turn: float) -> None:
    fitted = fit_ellipse(ellipse(long, short, turn))
    assert fitted.elongation == pytest.approx(long / short, rel=0.05)
    assert fitted.overlap > 0.94
    assert fitted.symmetry > 0.9


def test_a_comma_is_neither_an_ellipse_nor_symmetric() -> None:
    comma = ellipse(14, 14, 0.0)
    comma[52:70, 50:56] = True
    comma[64:70, 30:56] = True
    fitted = fit_ellipse(comma)
    assert fitted.overlap < 0.8
    assert fitted.symmetry < 0.75


@pytest.mark.parametrize(
    ("row", "column", "place"), [(10, 10, (-1, -1)), (10, 30, (1, -1)), (20, 20, (0, 0))]
)
def test_place_is_relative_to_the_field_not_to_the_image(
    row: int, column: int, place: tuple[int, int]
) -> None:
    field = np.zeros((60, 60), dtype=bool)
    field[10:31, 10:31] = True
    mask = np.zeros_like(field)
    mask[row, column] = True
    assert place_in_field(mask, field) == place


def test_the_most_frequent_family_wins_and_rare_ones_are_left_out() -> None:
    pixels = [(62, 100, 180)] * 40 + [(38, 52, 104)] * 25 + [(190, 48, 44)] * 30 + [(244, 242, 240)] * 5
    assert main_colours(to_lab(np.array(pixels, dtype=np.uint8))) == ("blue", "red")


def test_roughness_is_the_spread_of_fine_detail_and_ignores_shading() -> None:
    generator = np.random.default_rng(0)
    ramp = np.linspace(40, 80, 64)[:, None] * np.ones((1, 64))
    inside = np.ones((64, 64), dtype=bool)
    assert roughness(view_of(ramp), inside) < 0.1
    rough = roughness(view_of(ramp + generator.normal(0, 4, (64, 64))), inside)
    assert 2.5 < rough < 4.0


def test_wet_share_and_lumen_are_shares_of_the_field() -> None:
    lightness = np.full((50, 50), 60.0)
    lightness[5:15, 5:15] = 5.0
    wet = np.zeros((50, 50), dtype=bool)
    wet[30:35, 30:40] = True
    view = view_of(lightness, wet=wet)
    assert wet_share(view) == pytest.approx(50 / 2500)
    lumen = find_lumen(view)
    assert lumen is not None
    assert np.count_nonzero(lumen) == 100
    assert find_lumen(view_of(np.full((50, 50), 60.0))) is None


def test_a_sharp_edge_is_sharper_than_a_soft_one_and_an_edge_region_is_cut_off() -> None:
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 32, columns - 32)
    background = np.array([70.0, 20.0, 15.0], dtype=np.float32)

    def measures(softness: float, shift: int = 0) -> tuple[float, float]:
        lightness = np.roll(70 - 40 / (1 + np.exp((distance - 14) / softness)), shift, axis=1)
        mask = np.roll(distance <= 14, shift, axis=1)
        if shift:
            mask[:, :32] = False
        measured = measure_region(view_of(lightness), Region(mask, 5.0, background))
        return measured.edge_sharpness, measured.cut_off

    assert measures(0.2)[0] > 0.9 > 0.6 > measures(5.0)[0]
    assert measures(0.2)[1] == 0.0
    assert measures(0.2, shift=30)[1] > 0.3
