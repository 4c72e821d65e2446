"""What a rater's eyes and hands need of every page, what hostile text does to it, and how fast it is there."""

import contextlib
from collections.abc import Callable
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from medgen_review.study import Study
from playwright.sync_api import expect

EVERY_PAGE = ("/briefing", "/overview", "/page/1", "/page/2", "/finish", "/nowhere")


def grave(findings: Any) -> list[str]:
    """The serious and critical findings, with the elements they are at."""
    return [
        f"{each['id']} ({each['impact']}): {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in findings.response["violations"]
        if each["impact"] in {"serious", "critical"}
    ]


def test_no_page_has_a_serious_finding_of_axe_in_any_form(clinic: Callable[..., Any]) -> None:
    at = clinic(num_attention=1)
    visit = at.visit(bypass_csp=True)  # axe is a script of its own
    axe = Axe()
    visit.page.goto(f"{at.server.address}/login")
    assert grave(axe.run(visit.page)) == []
    visit.log_in(at.enrol("Ada"))
    for address in EVERY_PAGE:
        visit.page.goto(f"{at.server.address}{address}")
        assert grave(axe.run(visit.page)) == [], address
    visit.page.goto(f"{at.server.address}/page/1")
    visit.page.get_by_role("button", name="Dark surround").click()
    visit.value("1-A-0", 7).click()
    visit.expect_saved("1-A-0")
    assert grave(axe.run(visit.page)) == []
    visit.page.get_by_role("link", name="Set A, image 1 of 2").click()
    assert grave(axe.run(visit.page)) == []
    visit.page.keyboard.press("Escape")
    visit.page.keyboard.press("?")
    assert grave(axe.run(visit.page)) == []


def test_at_400_percent_nothing_has_to_be_scrolled_sideways_or_hides_the_focus(
    clinic: Callable[..., Any],
) -> None:
    at = clinic(num_attention=1)
    visit = at.visit(viewport={"width": 320, "height": 256})  # 1280 x 1024 at 400%
    visit.log_in(at.enrol("Ada"))
    for address in EVERY_PAGE:
        visit.page.goto(f"{at.server.address}{address}")
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 320, address
    visit.page.goto(f"{at.server.address}/page/1")
    for slug in ("1-A-0", "1-C-5", "1-real-rank"):
        visit.value(slug, 4).focus()
        box = visit.value(slug, 4).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 256
        middle = f"{box['x'] + box['width'] / 2}, {box['y'] + box['height'] / 2}"
        on_top = visit.page.evaluate(f"document.elementFromPoint({middle}).outerHTML")
        assert f'id="v-{slug}-4"' in on_top


def test_focus_is_visible_on_everything_that_takes_it(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    seen = set()
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        seen.add(
            visit.page.evaluate(
                "(() => { const e = document.activeElement, s = e.nextElementSibling;"
                "const wide = (x) => x ? parseFloat(getComputedStyle(x).outlineWidth) : 0;"
                "return Math.max(wide(e), e.type === 'radio' ? wide(s) : 0); })()"
            )
        )
    assert min(seen) >= 3


def test_a_page_of_forty_images_paints_within_a_second(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1, images_per_set=10, side=512)
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1", wait_until="load")
    assert visit.page.locator(".images img").count() == 40
    first_paint = visit.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert first_paint < 1000
    assert visit.page.evaluate("[...document.images].every((each) => !each.src || each.naturalWidth === 512)")


def test_hostile_texts_run_nothing_even_where_no_policy_stops_them(
    clinic: Callable[..., Any], hostile_study: Callable[..., Study], xss_payloads: list[str]
) -> None:
    at = clinic(hostile_study, xss_payloads)
    code = at.enrol("<script>alert('hit')</script>")
    for bypass in (False, True):
        visit = at.visit(bypass_csp=bypass)
        visit.page.on(
            "request",
            lambda request, v=visit: v.complaints.append(request.url) if "hit" in request.url else None,
        )
        visit.log_in(code)
        for address in ("/overview", "/briefing", *(f"/page/{number}" for number in range(1, 501, 90))):
            visit.page.goto(f"{at.server.address}{address}")
        for payload in xss_payloads[:60:6]:
            # What runs by hand or by focus would run now.
            with contextlib.suppress(Exception):
                visit.page.goto(f"{at.server.address}/page/{payload}", timeout=2000)
        visit.page.goto(f"{at.server.address}/overview")
        expect(visit.page.locator(".contents li")).to_have_count(500)
        foreign = "svg, iframe, object, math, base, details, style, img, textarea, [onerror], [onload], #hit"
        assert visit.page.locator(foreign).count() == 0
        assert visit.page.evaluate("window.hit") is None
        assert [each for each in visit.complaints if "/page/" not in each] == []
