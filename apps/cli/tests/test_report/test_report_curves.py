import math
import re
from xml.etree import ElementTree

import pytest
from medgen_cli.report.curves import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH, loss_curve, smooth


def points_of(svg: str, style: str) -> list[tuple[float, float]]:
    match = re.search(rf'class="{style}" points="([^"]*)"', svg)
    assert match
    return [(float(x), float(y)) for x, y in (point.split(",") for point in match[1].split())]


def test_smoothing_leaves_a_constant_as_it_is() -> None:
    assert smooth([3.0] * 50, 10) == pytest.approx([3.0] * 50)


def test_smoothing_matches_its_formula() -> None:
    values, span = [4.0, 1.0, 7.0, 2.0], 5
    decay = 1 - 2 / (span + 1)
    weights = [decay**3, decay**2, decay, 1.0]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert smooth(values, span)[-1] == pytest.approx(expected)


def test_a_span_of_one_does_not_smooth() -> None:
    assert smooth([4.0, 1.0, 7.0], 1) == pytest.approx([4.0, 1.0, 7.0])


def test_a_straight_line_runs_from_corner_to_corner() -> None:
    steps = list(range(1, 101))
    svg = loss_curve(steps, [float(step) for step in steps], name="denoiser")
    # From 1 to 100 the axis is logarithmic: the ends lie in the corners, the values between on a log.
    raw = points_of(svg, "raw")
    assert raw[0] == (LEFT, HEIGHT - BOTTOM)
    assert raw[-1] == (WIDTH - RIGHT, TOP)
    height = HEIGHT - BOTTOM - TOP
    assert raw[9][1] == pytest.approx(HEIGHT - BOTTOM - height * math.log10(10) / math.log10(100), abs=0.1)


def test_a_loss_of_small_range_starts_at_zero_and_is_linear() -> None:
    svg = loss_curve([1, 2, 3], [1.0, 2.0, 4.0], name="denoiser")
    assert "log scale" not in svg
    assert points_of(svg, "raw")[1][1] == pytest.approx((HEIGHT - BOTTOM + TOP) / 2, abs=0.1)


def test_a_peak_survives_the_thinning_of_a_long_curve() -> None:
    losses = [1.0] * 10_000
    losses[6_543] = 5.0
    raw = points_of(loss_curve(list(range(10_000)), losses, name="denoiser"), "raw")
    assert len(raw) <= MAX_POINTS + 2
    assert min(y for _, y in raw) == TOP


def test_one_value_and_equal_values_can_be_drawn() -> None:
    for steps, losses in (([7], [0.5]), ([1, 2], [0.0, 0.0]), ([1, 2], [-3.0, -3.0])):
        svg = loss_curve(steps, losses, name="autoencoder")
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "nan" not in svg
        assert "inf" not in svg


def test_a_name_is_text_not_markup() -> None:
    svg = loss_curve([1, 2], [1.0, 2.0], name='"><script>')
    assert "<script>" not in svg
    ElementTree.fromstring(svg)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal length >= 1, got 2 and 1"):
        loss_curve([1, 2], [1.0], name="denoiser")
