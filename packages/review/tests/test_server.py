import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from medgen_review.schedule import Place, pages_for, places_on, value_range
from medgen_review.server.pages import slug_of
from medgen_review.store import StoreError
from medgen_review.study import RANK, Study

CSRF = re.compile(r'data-csrf="([0-9a-f]{32})"')


def csrf_of(client: Any) -> Any:
    found = CSRF.search(client.get("/briefing").text)
    assert found is not None
    return found[1]


def give(
    client: Any, csrf: Any, slug: Any, value: Any, *, seen: Any = 0, action: Any = "", page: Any = 1
) -> Any:
    slugs, values, versions = ([each] if not isinstance(each, list) else each for each in (slug, value, seen))
    form = {"csrf": csrf, "action": action or f"action-{slug}-{value}-{seen}"}
    form |= {"slug": slugs, "value": [str(each) for each in values], "seen": [str(each) for each in versions]}
    return client.post(f"/page/{page}/answer", data=form, headers={"HX-Request": "true"})


def standing(at_work: Any, number: int = 0) -> Any:
    return {place: value.value for place, value in at_work.store.values(number).items()}


def test_whoever_is_not_logged_in_sees_only_the_form_for_the_code(studio: Callable[..., Any]) -> None:
    client = studio().browser()
    for address in ("/", "/briefing", "/overview", "/continue", "/finish", "/page/1", "/image/" + "0" * 32):
        answer = client.get(address, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), address
    assert "Your personal code" in client.get("/login").text


def test_a_code_opens_the_study_however_it_is_typed_and_stands_in_no_address(
    studio: Callable[..., Any],
) -> None:
    at_work = studio()
    code = at_work.store.enrol("Ada").token
    client = at_work.browser()
    answer = client.post("/login", data={"code": f" {code.lower().replace('-', ' ')} "})
    assert answer.url.path == "/briefing"
    assert code not in str(answer.history) + str(answer.url) + answer.text
    cookie = answer.history[0].headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_a_wrong_withdrawn_or_expired_code_is_told_so(studio: Callable[..., Any]) -> None:
    at_work = studio()
    enrolled = at_work.store.enrol("Ada")
    client = at_work.browser()
    answer = client.post("/login", data={"code": "AAAAA-AAAAA-AAAAA-AAAAA"})
    assert (answer.status_code, "this code is not known" in answer.text) == (401, True)
    client.post("/login", data={"code": enrolled.token})
    at_work.store.revoke(0)
    answer = client.get("/page/1")
    assert (answer.status_code, "this code was withdrawn" in answer.text) == (401, True)
    assert "Max-Age=0" in answer.headers["set-cookie"]


def test_a_value_is_recorded_and_the_page_told_its_version_and_the_progress(
    studio: Callable[..., Any],
) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    answer = give(client, csrf_of(client), "1-B-2", 7)
    assert answer.status_code == 200
    assert answer.headers["X-Versions"] == "1-B-2=1"
    assert "1 of 44 values given" in answer.text
    assert standing(at_work) == {Place(0, "B", at_work.study.aspects[2].key): 7}


def test_the_same_action_again_changes_nothing_and_is_answered_as_before(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_of(client)
    first = give(client, csrf, "1-A-0", 7, action="the-same-action")
    again = give(client, csrf, "1-A-0", 7, action="the-same-action")
    assert first.text == again.text
    assert len([event for event in at_work.store.trail() if event.kind == "value"]) == 1


def test_a_stale_tab_is_told_the_present_value_and_overwrites_nothing(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_of(client)
    give(client, csrf, "1-A-0", 7)
    stale = give(client, csrf, "1-A-0", 2, seen=0)
    assert stale.status_code == 409
    assert "Changed in another window" in stale.text
    assert re.search(r'value="7" checked', stale.text)
    assert list(standing(at_work).values()) == [7]
    assert give(client, csrf, "1-A-0", 2, seen=1).status_code == 200


def test_a_rank_changes_hands_in_one_action(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_of(client)
    give(client, csrf, "1-A-rank", 1)
    give(client, csrf, "1-B-rank", 2)
    answer = give(client, csrf, ["1-B-rank", "1-A-rank"], [1, 2], seen=[1, 1], action="swapping-two")
    assert answer.status_code == 200
    assert 'id="ranking"' in answer.text
    assert standing(at_work) == {Place(0, "A", RANK): 2, Place(0, "B", RANK): 1}


@pytest.mark.parametrize(
    ("slug", "value", "words"),
    [
        ("1-A-0", 11, "must be 0 to 10, got 11"),
        ("1-A-rank", 0, "1 to 4"),
        ("1-D-0", 5, "o value is asked for"),
    ],
)
def test_a_value_out_of_range_or_place_is_refused_in_words(
    studio: Callable[..., Any], slug: Any, value: Any, words: str
) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    answer = give(client, csrf_of(client), slug, value)
    assert answer.status_code == 422
    assert words in answer.text
    assert standing(at_work) == {}


def test_without_script_the_form_saves_the_page_and_goes_on(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    form = {"csrf": csrf_of(client), "action": "0123456789abcdef", "go": "next"}
    page = pages_for(at_work.study, 0)[0]
    for place in places_on(at_work.study, page):
        slug = slug_of(at_work.study, place)
        form |= {f"seen-{slug}": "0", f"drawn-{slug}": ""}
        if place.field != RANK:
            form[f"value-{slug}"] = "4"
    answer = client.post("/page/1", data=form, follow_redirects=False)
    assert answer.headers["location"] == "/page/2"
    assert list(standing(at_work).values()) == [4] * 18
    client.post("/page/1", data=form)
    assert len([event for event in at_work.store.trail() if event.kind == "value"]) == 18


def test_without_script_a_stale_form_saves_what_it_may_and_shows_the_rest(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_of(client)
    give(client, csrf, "1-A-0", 7)
    form = {"csrf": csrf, "action": "0123456789abcdef", "go": "next"}
    for slug, value in (("1-A-0", "2"), ("1-A-1", "3")):
        form |= {f"value-{slug}": value, f"seen-{slug}": "0", f"drawn-{slug}": ""}
    answer = client.post("/page/1", data=form)
    assert answer.status_code == 409
    assert "One value was changed in another window" in answer.text
    assert sorted(standing(at_work).values()) == [3, 7]


def test_a_rater_goes_on_at_another_computer_where_the_first_stopped(studio: Callable[..., Any]) -> None:
    at_work = studio()
    code = at_work.store.enrol("Ada").token
    first, second = at_work.browser(code), at_work.browser(code)
    csrf = csrf_of(first)
    for place in places_on(at_work.study, pages_for(at_work.study, 0)[0]):
        value = "ABC".index(place.letter) + 1 if place.letter and place.field == RANK else 4
        assert give(first, csrf, slug_of(at_work.study, place), value).status_code == 200
    assert second.get("/").url.path == "/page/2"
    assert "22 of 44 values given" in second.get("/page/2").text


def test_a_study_is_finished_only_when_all_is_given_and_takes_nothing_after(
    studio: Callable[..., Any],
) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_of(client)
    assert "44 values are still missing" in client.post("/finish", data={"csrf": csrf}).text
    for page in pages_for(at_work.study, 0):
        for place in places_on(at_work.study, page):
            value = value_range(at_work.study, page, place.field)[1]
            if place.field == RANK and place.letter:
                value = "ABC".index(place.letter) + 1
            at_work.store.record(0, *place, value, action_id=f"fill {place}")
    assert client.get("/continue").url.path == "/overview"
    assert "Thank you" in client.post("/finish", data={"csrf": csrf}).text
    refused = give(client, csrf, "1-A-0", 1, seen=1)
    assert (refused.status_code, "finished" in refused.text) == (422, True)
    assert "not changed any more" in client.get("/page/1").text


def test_logging_out_closes_the_study_on_this_computer(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    client.post("/logout", data={"csrf": csrf_of(client)})
    assert client.get("/overview").url.path == "/login"


def test_images_are_those_of_the_own_pages_and_of_nobody_else(studio: Callable[..., Any]) -> None:
    at_work = studio()
    ada, eve = (at_work.browser(at_work.store.enrol(name).token) for name in ("Ada", "Eve"))
    names = re.findall(r'src="(/image/[0-9a-f]{32})"', ada.get("/page/1").text)
    assert len(names) == 8
    assert {ada.get(name).headers["content-type"] for name in names} == {"image/png"}
    assert {eve.get(name).status_code for name in names} == {404}


def test_a_database_that_does_not_answer_is_said_and_the_value_can_be_sent_again(
    studio: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_of(client)

    def locked(*_: object, **__: object) -> None:
        raise StoreError("/secret/place/ratings.sqlite: locked")

    with monkeypatch.context() as patch:
        patch.setattr(at_work.store, "record_all", locked)
        answer = give(client, csrf, "1-A-0", 5)
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert give(client, csrf, "1-A-0", 5).status_code == 200


def test_a_locked_database_is_waited_for_and_then_told_to_the_page(
    write_study: Callable[..., Study], tmp_path: Path, server_process: Callable[[Path], Any]
) -> None:
    import sqlite3

    from medgen_review.store import RatingStore

    study = write_study(tmp_path, num_prompts=1)
    with RatingStore.open(tmp_path / "ratings.sqlite", study) as store:
        code = store.enrol("Ada").token
    server = server_process(tmp_path / "study.json")
    other = sqlite3.connect(tmp_path / "ratings.sqlite", isolation_level=None, check_same_thread=False)
    with httpx2.Client(base_url=server.address, headers={"Origin": server.address}, timeout=30) as client:
        client.post("/login", data={"code": code})
        csrf = csrf_of(client)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(1.0, lambda: other.execute("ROLLBACK"))
        timer.start()
        assert give(client, csrf, "1-A-0", 5).status_code == 200
        timer.join()
    other.close()
    server.kill()


def test_errors_are_pages_in_words(studio: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token, raise_server_exceptions=False)
    for address in (
        "/page/0",
        "/page/3",
        "/page/x",
        "/page/²",
        "/nowhere",
        "/static/README.md",
        "/docs",
        "/openapi.json",
    ):
        answer = client.get(address)
        assert answer.status_code == 404, address
        assert "<h1>There is no such page</h1>" in answer.text
    monkeypatch.setattr(at_work.store, "open_places", lambda _: 1 / 0)
    answer = client.get("/overview")
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert "The server made a mistake" in answer.text
    assert "content-security-policy" in answer.headers


def test_a_server_killed_under_its_raters_loses_and_doubles_nothing(
    write_study: Callable[..., Study], tmp_path: Path, server_process: Callable[[Path], Any]
) -> None:
    from medgen_review.store import RatingStore

    study = write_study(tmp_path, num_prompts=1)
    with RatingStore.open(tmp_path / "ratings.sqlite", study) as store:
        codes = [store.enrol(f"rater {number}").token for number in range(6)]
    server = server_process(tmp_path / "study.json")
    acknowledged: dict[tuple[int, str], int] = {}
    given = threading.Semaphore(0)

    def rate(number: int) -> None:
        with httpx2.Client(base_url=server.address, headers={"Origin": server.address}) as client:
            csrf = ""
            for slug in [f"1-{letter}-{aspect}" for letter in "ABC" for aspect in range(6)]:
                for _ in range(400):
                    try:
                        if not csrf:
                            client.post("/login", data={"code": codes[number]})
                            csrf = csrf_of(client)
                        answer = give(client, csrf, slug, number, action=f"rater-{number}-{slug}")
                    except httpx2.HTTPError:
                        threading.Event().wait(0.05)
                        continue
                    assert answer.status_code == 200
                    acknowledged[number, slug] = number
                    given.release()
                    break

    with ThreadPoolExecutor(6) as pool:
        raters = [pool.submit(rate, number) for number in range(6)]
        for _ in range(3):
            for _ in range(15):
                given.acquire(timeout=20)
            server.kill()
            server.start()
        for rater in raters:
            rater.result()
    server.kill()
    assert len(acknowledged) == 6 * 18
    with RatingStore.open(tmp_path / "ratings.sqlite", study) as store:
        values = {number: store.values(number) for number in range(6)}
        assert all({value.value for value in each.values()} == {number} for number, each in values.items())
        assert [len(each) for each in values.values()] == [18] * 6
        assert sum(event.kind == "value" for event in store.trail()) == 6 * 18
        store.verify()
