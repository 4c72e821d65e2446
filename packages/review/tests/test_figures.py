import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib as mpl
import pytest
from medgen_review.figures import draw_figures
from medgen_review.rating_files import RatingRow
from medgen_review.score_files import ItemScore
from medgen_review.stats import ReviewStatistics, review_stats
from PIL import Image

Rows = Callable[..., list[RatingRow]]


@pytest.fixture
def statistics(rating_rows: Rows) -> ReviewStatistics:
    scores = [
        ItemScore(f"model-{n}", None, name, value + 0.1 * n)
        for n, value in enumerate((3.0, 2.0, 1.0))
        for name in ("fbd", "agreement", "a", "b", "c", "d", "e")
    ]
    return review_stats(rating_rows(), scores=scores)


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_same_statistics_are_the_same_bytes(statistics: ReviewStatistics) -> None:
    for first, again in zip(draw_figures(statistics), draw_figures(statistics), strict=True):
        assert (first.svg, first.png) == (again.svg, again.png)
        assert "date" not in first.svg.lower()


def test_every_model_and_aspect_is_named_in_both_forms(statistics: ReviewStatistics) -> None:
    means, tiers = draw_figures(statistics, {"realism": "Clinical Realism"})
    assert (means.name, tiers.name) == ("means", "tiers")
    assert {"model-0", "model-1", "model-2", "Clinical Realism", "diversity", "all aspects"} <= set(
        texts(means.svg)
    )
    assert "fbd" in texts(tiers.svg)
    assert "model-2" in means.description
    with Image.open(io.BytesIO(means.png)) as image:
        assert image.width == pytest.approx(7.2 * 150, abs=2)


def test_points_stand_where_the_means_are(statistics: ReviewStatistics) -> None:
    means = draw_figures(statistics)[0]
    root = ET.fromstring(means.svg)
    space = "{http://www.w3.org/2000/svg}"
    groups = {group.get("id"): group for group in root.iter(f"{space}g")}
    ticks = [
        float(use.get("x", "nan"))
        for n in range(1, 7)
        for use in groups[f"xtick_{n}"].iter(f"{space}use")
        if use.get("y")
    ]
    left, right = ticks[0], ticks[-1]  # 0 and 10
    drawn = [
        10 * (float(use.get("x", "nan")) - left) / (right - left)
        for name, group in groups.items()
        if name and name.startswith("line2d_")
        for use in group.iter(f"{space}use")
        if use.get("style", "").startswith("fill: #0072b2")
    ]
    expected = [each.mean.value for each in statistics.means if each.item == "model-0"]
    assert drawn[-len(expected) :] == pytest.approx(expected, abs=1e-3) or drawn[
        : len(expected)
    ] == pytest.approx(expected, abs=1e-3)


def test_settings_of_the_process_stay_as_they_were(statistics: ReviewStatistics) -> None:
    before = dict(mpl.rcParams)
    draw_figures(statistics)
    assert dict(mpl.rcParams) == before


def test_no_scores_no_second_figure(rating_rows: Rows) -> None:
    assert [figure.name for figure in draw_figures(review_stats(rating_rows()))] == ["means"]


@pytest.mark.parametrize("name", ["$x^{", "<b>&amp;</b>", "a\x0bb\x00", "m" * 300, "модель"])
def test_odd_names_are_drawn_as_they_are(rating_rows: Rows, name: str) -> None:
    rows = [
        row.model_copy(update={"model": name}) if row.model == "model-0" else row for row in rating_rows()
    ]
    means = draw_figures(review_stats(rows))[0]
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    shown = shown if len(shown) <= 28 else f"{shown[:27]}…"
    assert shown in texts(means.svg)
