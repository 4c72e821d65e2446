from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from medgen_review.rating_files import RatingRow
from medgen_review.score_files import ItemScore
from medgen_review.stats import review_stats, write_statistics
from playwright.sync_api import Browser

Rows = Callable[..., list[RatingRow]]


def write_page(folder: Path, rows: list[RatingRow]) -> str:
    items = sorted({row.model for row in rows})
    statistics = review_stats(rows, scores=[ItemScore(item, None, "fbd", n) for n, item in enumerate(items)])
    return write_statistics(statistics, folder)[-1].as_uri()


@pytest.mark.parametrize(
    "study", [{"num_repeats": 1, "num_attention": 1}, {"num_raters": 1, "num_prompts": 1}]
)
def test_page_of_results_has_no_finding_of_axe_and_fits_every_width(
    rating_rows: Rows, chromium: Browser, tmp_path: Path, study: dict[str, Any]
) -> None:
    address = write_page(tmp_path, rating_rows(**study))
    context = chromium.new_context(bypass_csp=True)  # axe is a script of its own
    page = context.new_page()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    violations = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in violations] == []
    for width in (320, 768, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    context.close()


def test_browser_asks_for_nothing_else_and_runs_no_name(
    rating_rows: Rows, chromium: Browser, tmp_path: Path, xss_payloads: list[str]
) -> None:
    payloads = [payload for payload in dict.fromkeys(xss_payloads) if payload.strip()]
    rows = []
    # All of them on one page: models of a study, each with a rater and an aspect of that name.
    for row in rating_rows(steps=(0.0,) * 8, num_prompts=3, num_raters=2, aspects=("a", "b")):
        model = "real" if row.model == "real" else payloads[int(row.model[-1]) * (len(payloads) // 8)]
        changed = {"model": model, "rater": f"{row.rater} {payloads[-1]}"}
        changed |= {"aspect": f"{row.aspect} {payloads[-2]}"} if row.aspect else {}
        rows.append(row.model_copy(update=changed))
    address = write_page(tmp_path, rows)
    context = chromium.new_context(bypass_csp=True)  # escaping alone must be enough
    seen: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: seen.append(request.url))
    page.on("dialog", lambda dialog: seen.append(f"dialog {dialog.message}"))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(address)
    page.wait_for_timeout(300)
    assert seen == [address]
    assert page.inner_text("body").count(payloads[0]) > 5
    context.close()
