"""Raters at work: by mouse, by keys, by touch, in two windows, and with the server killed under their hands."""

from collections.abc import Callable
from typing import Any

from medgen_review.study import RANK
from playwright.sync_api import expect

ALL = 18 + 4  # values of a page with three models


def expected_of_a_page(clinic: Any, page: int) -> dict[tuple[int, str, str], int]:
    """Return what these raters give: 0, 2 .. 10 for A, one more for B, 10 for C; the real images come first."""
    values = {}
    for letter, change in (("A", 0), ("B", 1), ("C", 10)):
        for place, aspect in enumerate(clinic.study.aspects):
            values[page, letter, aspect.key] = min(10, 2 * place + change) if letter != "C" else 10
    ranks = zip(("A", "B", "C", ""), (2, 3, 4, 1), strict=True)
    return values | {(page, letter, RANK): rank for letter, rank in ranks}


def slugs_of(clinic: Any, expected: dict[tuple[int, str, str], int]) -> list[tuple[str, int]]:
    keys = [aspect.key for aspect in clinic.study.aspects]
    return [
        (f"{page + 1}-{letter or 'real'}-{RANK if field == RANK else keys.index(field)}", value)
        for (page, letter, field), value in expected.items()
    ]


def test_a_whole_study_by_mouse(clinic: Callable[..., Any]) -> None:
    at = clinic()
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.get_by_role("link", name="Start").click()
    expected: dict[tuple[int, str, str], int] = {}
    for page in range(2):
        asked = expected_of_a_page(at, page)
        for slug, value in slugs_of(at, asked):
            visit.value(slug, value).click()
        expected |= asked
        expect(visit.page.locator("#progress")).to_contain_text(
            f"{(page + 1) * ALL} of {2 * ALL} values given"
        )
        visit.page.locator(".steps .main").click()
    visit.page.get_by_role("link", name="Finish").click()
    visit.page.get_by_role("button", name="I am done").click()
    expect(visit.page.get_by_role("heading", name="Thank you")).to_be_visible()
    assert at.given() == expected
    assert visit.complaints == []


def test_a_whole_study_by_keys_alone(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    keys = visit.page.keyboard
    visit.page.goto(at.server.address)
    for _ in range(2):  # past the link that skips the head
        keys.press("Tab")
    keys.type(at.enrol("Ada"))
    keys.press("Enter")
    expect(visit.page.get_by_role("heading", name="Briefing")).to_be_visible()
    for _ in range(20):
        keys.press("Tab")
        if visit.page.evaluate("document.activeElement.textContent") == "Start":
            break
    keys.press("Enter")
    expect(visit.page.locator("#page")).to_be_visible()
    visit.page.wait_for_load_state()  # the script runs just before
    keys.press("?")
    expect(visit.page.get_by_role("heading", name="Keys")).to_be_visible()
    keys.press("Escape")
    keys.press("m")
    for _, value in slugs_of(at, expected_of_a_page(at, 0)):
        keys.type(str(value))
        keys.press("Enter")
    expect(visit.page.locator("#progress")).to_contain_text(f"{ALL} of {ALL} values given")
    keys.press("Enter")  # after the last scale the button of the next page has the focus
    expect(visit.page.get_by_role("heading", name="Overview")).to_be_visible()
    for _ in range(20):
        keys.press("Tab")
        if visit.page.evaluate("document.activeElement.textContent") == "Finish":
            break
    keys.press("Enter")
    expect(visit.page.get_by_role("heading", name="Finish")).to_be_visible()
    for _ in range(20):
        keys.press("Tab")
        if visit.page.evaluate("document.activeElement.textContent") == "I am done":
            break
    keys.press("Enter")
    expect(visit.page.get_by_role("heading", name="Thank you")).to_be_visible()
    assert at.given() == expected_of_a_page(at, 0)
    assert visit.complaints == []


def test_a_digit_that_may_go_on_waits_for_the_next_and_arrows_move(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    keys = visit.page.keyboard
    visit.value("1-A-0", 0).focus()
    keys.type("1")
    visit.expect_saved("1-A-0")
    keys.press("Enter")
    keys.type("10")
    visit.expect_saved("1-A-1")
    keys.press("ArrowLeft")
    expect(visit.value("1-A-1", 9)).to_be_checked()
    expect(visit.page.locator("#status")).to_contain_text("9")
    assert sorted(at.given().values()) == [1, 9]


def test_on_a_long_scale_the_value_is_typed_and_one_beyond_it_not_taken(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1, changed={"highest": 100})
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    visit.page.locator("#v-1-A-0").focus()
    visit.page.keyboard.type("55")
    visit.page.keyboard.press("Enter")
    visit.expect_saved("1-A-0")
    expect(visit.page.locator("#v-1-A-1")).to_be_focused()
    visit.page.keyboard.type("200")
    visit.page.keyboard.press("Tab")
    visit.page.locator("#v-1-A-2").fill("0")
    visit.page.keyboard.press("Tab")
    visit.expect_saved("1-A-2")
    assert sorted(at.given().values()) == [0, 55]


def test_what_is_missing_is_found_by_its_button(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    for slug, value in slugs_of(at, expected_of_a_page(at, 0)):
        if slug != "1-B-3":
            visit.value(slug, value).click()
    visit.page.get_by_role("button", name="To the next missing value").click()
    expect(visit.value("1-B-3", 0)).to_be_focused()


def test_a_place_in_the_ranking_changes_hands(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    for slug, value in (("1-A-rank", 1), ("1-B-rank", 2), ("1-B-rank", 1), ("1-real-rank", 1)):
        visit.value(slug, value).click()
        expect(visit.page.locator("#status")).to_contain_text("Saved")
        expect(visit.value(slug, value)).to_be_focused()
    expect(visit.page.locator("#progress")).to_contain_text("2 of 22")
    assert at.given() == {(0, "A", RANK): 2, (0, "B", RANK): None, (0, "", RANK): 1}


def test_a_server_killed_under_the_raters_hands_loses_nothing(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    code = at.enrol("Ada")
    visit.log_in(code)
    visit.page.goto(f"{at.server.address}/page/1")
    visit.value("1-A-0", 3).click()
    visit.expect_saved("1-A-0")
    at.server.kill()
    visit.value("1-A-1", 4).click()
    visit.value("1-A-1", 5).click()
    visit.value("1-B-rank", 2).click()
    expect(visit.page.locator("#status")).to_contain_text(
        "Not saved yet: the server does not answer. 3 values are kept"
    )
    expect(visit.page.locator("#state-1-A-1")).to_contain_text("Not saved yet")
    assert len(at.given()) == 1
    at.server.start()
    expect(visit.page.locator("#progress")).to_contain_text("3 of 22 values given", timeout=15000)
    visit.expect_saved("1-A-1")
    assert sorted(at.given().values()) == [2, 3, 5]

    at.server.kill()
    visit.value("1-C-0", 9).click()
    expect(visit.page.locator("#status")).to_contain_text("Not saved yet")
    visit.page.close()  # the window is shut, the server comes back, the rater too: on the overview
    at.server.start()
    visit.page = visit.context.new_page()
    visit.listen(visit.page)
    visit.page.goto(f"{at.server.address}/overview")
    expect(visit.page.locator("#progress")).to_contain_text("4 of 22 values given")
    assert sorted(at.given().values()) == [2, 3, 5, 9]
    assert visit.complaints == []


def test_a_stale_second_window_is_told_and_shows_what_stands(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    code = at.enrol("Ada")
    first, second = at.visit(), at.visit()
    for visit in (first, second):
        visit.log_in(code)
        visit.page.goto(f"{at.server.address}/page/1")
    first.value("1-A-0", 3).click()
    first.expect_saved("1-A-0")
    second.value("1-A-0", 8).click()
    expect(second.page.locator("#state-1-A-0")).to_contain_text("Changed in another window")
    expect(second.page.locator("#status")).to_contain_text("changed in another window")
    expect(second.value("1-A-0", 3)).to_be_checked()
    assert list(at.given().values()) == [3]
    second.value("1-A-0", 8).click()
    second.expect_saved("1-A-0")
    assert list(at.given().values()) == [8]


def test_logged_out_in_between_values_are_kept_and_saved_after_logging_in(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    code = at.enrol("Ada")
    visit = at.visit()
    visit.log_in(code)
    visit.page.goto(f"{at.server.address}/page/1")
    visit.context.clear_cookies()
    visit.value("1-A-0", 6).click()
    expect(visit.page.locator("#status")).to_contain_text("You are logged out. What you gave is kept")
    assert at.given() == {}
    visit.log_in(code)
    expect(visit.page.locator("#progress")).to_contain_text("1 of 22 values given")
    assert list(at.given().values()) == [6]


def test_without_script_a_page_is_filled_in_and_saved_by_its_button(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit(java_script_enabled=False)
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    asked = expected_of_a_page(at, 0)
    for slug, value in slugs_of(at, asked):
        visit.value(slug, value).check()
    visit.page.get_by_role("button", name="Save").click()
    assert at.given() == asked


def test_the_large_view_by_mouse_and_by_keys(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit()
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    name, keys = visit.page.locator("#viewer-name"), visit.page.keyboard
    visit.page.get_by_role("link", name="Set B, image 1 of 2").click()
    expect(name).to_have_text("Set B, image 1 of 2")
    fitted = visit.page.locator("#large").bounding_box()
    for key, words in (
        ("ArrowRight", "Set B, image 2"),
        ("ArrowRight", "Set B, image 1"),
        ("ArrowDown", "Set C, image 1"),
    ):
        keys.press(key)
        expect(name).to_contain_text(words)
    keys.press("+")
    assert visit.page.locator("#large").bounding_box()["width"] > 1.4 * fitted["width"]
    keys.press("0")
    assert visit.page.locator("#large").bounding_box()["width"] == fitted["width"]
    keys.press("Escape")
    expect(visit.page.locator("#viewer")).to_be_hidden()
    expect(visit.page.get_by_role("link", name="Set B, image 1 of 2")).to_be_focused()
    assert visit.complaints == []


def test_by_touch_on_a_tablet(clinic: Callable[..., Any]) -> None:
    at = clinic(num_prompts=1)
    visit = at.visit(viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True)
    visit.log_in(at.enrol("Ada"))
    visit.page.goto(f"{at.server.address}/page/1")
    smallest = visit.page.evaluate(
        "Math.min(...[...document.querySelectorAll('.values label, button, .head a')]"
        ".filter((e) => e.offsetParent).flatMap((e) => [e.offsetWidth, e.offsetHeight]))"
    )
    assert smallest >= 40
    visit.value("1-A-0", 7).tap()
    visit.expect_saved("1-A-0")
    visit.page.get_by_role("link", name="Set A, image 1 of 2").tap()
    expect(visit.page.locator("#viewer-name")).to_have_text("Set A, image 1 of 2")
    visit.page.get_by_role("button", name="Next image").tap()
    expect(visit.page.locator("#viewer-name")).to_have_text("Set A, image 2 of 2")
    visit.page.get_by_role("button", name="Close").tap()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 820
