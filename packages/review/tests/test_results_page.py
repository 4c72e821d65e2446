import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from medgen_review.figures import draw_figures
from medgen_review.rating_files import RatingRow
from medgen_review.results_page import estimate_cell, number, p_value, render_results
from medgen_review.score_files import ItemScore
from medgen_review.statistics.intervals import Estimate
from medgen_review.stats import ReviewStatistics, review_stats

Rows = Callable[..., list[RatingRow]]

PAYLOAD = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}"


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the words outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(statistics: ReviewStatistics, title: str = "A study") -> Elements:
    elements = Elements()
    elements.feed(render_results(statistics, draw_figures(statistics), title=title))
    return elements


def scored(rows: list[RatingRow]) -> ReviewStatistics:
    items = sorted({row.model for row in rows})
    return review_stats(rows, scores=[ItemScore(item, None, "fbd", n) for n, item in enumerate(items)])


def test_page_holds_every_mean_with_its_interval(rating_rows: Rows) -> None:
    statistics = scored(rating_rows(num_repeats=1, num_attention=1))
    words = re.sub(r"\s+", " ", page_of(statistics).text)
    for each in statistics.means:
        assert each.mean.interval is not None
        low, high = each.mean.interval
        assert f"{number(each.mean.value)} {number(low)} to {number(high)}" in words
    for warning in statistics.warnings:
        assert warning in words


def test_page_needs_nothing_from_outside(rating_rows: Rows) -> None:
    page = page_of(scored(rating_rows()))
    for tag, attributes in page.found:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_ids_are_unique_and_references_find_them(rating_rows: Rows) -> None:
    page = page_of(scored(rating_rows()))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {
        (attributes.get("href") or attributes.get("xlink:href") or "").removeprefix("#")
        for tag, attributes in page.found
        if tag in {"a", "use"}
    }
    clips = {
        match
        for _, attributes in page.found
        for match in re.findall(r"url\(#(.*?)\)", attributes.get("clip-path") or "")
    }
    assert (references | clips) - {""} <= set(ids)


def test_names_are_shown_and_never_run(rating_rows: Rows) -> None:
    rows = [
        row.model_copy(
            update={
                "model": PAYLOAD if row.model == "model-0" else row.model,
                "rater": PAYLOAD if row.rater == "rater-0" else row.rater,
                "aspect": PAYLOAD if row.aspect == "realism" else row.aspect,
            }
        )
        for row in rating_rows(num_repeats=1, num_attention=1)
    ]
    page = page_of(scored(rows), title=PAYLOAD)
    assert not {tag for tag, _ in page.found} & {"script", "img", "b{{"}
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert page.text.count(PAYLOAD) > 10
    assert "49" not in re.findall(r"'(\d+)", page.text)


def test_each_table_has_headings_and_can_be_reached_by_keyboard(rating_rows: Rows) -> None:
    page = page_of(scored(rating_rows()))
    regions = [attributes for tag, attributes in page.found if attributes.get("class") == "scroll"]
    assert len(regions) == sum(tag == "table" for tag, _ in page.found)
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    assert len({region["aria-label"] for region in regions}) == len(regions)
    assert all("scope" in attributes for tag, attributes in page.found if tag == "th")
    assert all(attributes.get("aria-label") for tag, attributes in page.found if tag == "svg")


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(1.0, (0.5, 1.5)), "<b>1.00</b> <small>0.50 to 1.50</small>"),
        (Estimate(None, None, "one rater <x>"), '<span class="none">one rater &lt;x&gt;</span>'),
        (Estimate(-2.0, None, "no interval"), '<b>−2.00</b> <small class="why">no interval</small>'),
    ],
)
def test_cell_shows_value_and_interval_or_the_reason(estimate: Estimate, text: str) -> None:
    assert estimate_cell(estimate) == text


def test_numbers_have_no_minus_zero_and_p_no_false_precision() -> None:
    assert (number(-0.001), number(None), number(-1.5)) == ("0.00", "–", "−1.50")
    assert [number(value, significant=True) for value in (2060.58, 0.7, 1e-5)] == [
        "2061",
        "0.7000",
        "1.000e−05",
    ]
    assert (p_value(0.0), p_value(0.05), p_value(None)) == ("< 0.001", "0.050", "–")
