"""What the store promises, on SQLite and on PostgreSQL alike."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from medgen_review.audit import TrailError, verify_trail
from medgen_review.database import open_engine
from medgen_review.rater_codes import code_hash
from medgen_review.schedule import REFERENCES, Place, places_on
from medgen_review.store import Change, RatingStore, Recorded, RefusedError
from medgen_review.study import RANK, Study
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

MakeStudy = Callable[..., Study]
REALISM = "clinical_realism"


def execute(url: str, *statements: str) -> None:
    engine = open_engine(url, 5)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def fill(store: RatingStore, number: int) -> None:
    """Give every value of a rater, as a careful rater would."""
    for page in store.pages(number):
        places = places_on(store.study, page)
        ranks = iter(range(1, 100))
        values = [next(ranks) if place.field == RANK else 5 for place in places]
        changes = [
            Change(place.letter, place.field, value) for place, value in zip(places, values, strict=True)
        ]
        store.record_all(number, page.number, changes, action_id=f"fill-{number}-{page.number}")


def test_a_value_is_there_after_the_store_was_opened_again(store_url: str, make_study: MakeStudy) -> None:
    study = make_study()
    with RatingStore.open(store_url, study) as store:
        number = store.enrol("Dr. Grün").rater.number
        assert store.record(number, 0, "A", REALISM, 7, action_id="action-1") == Recorded(1, False, 7)
        assert store.record(number, 0, "A", REALISM, 8, action_id="action-2", seen_version=1).version == 2
        secret = store.secret
    with RatingStore.open(store_url, study) as store:
        ((place, value),) = store.values(number).items()
        assert place == (0, "A", REALISM)
        assert (value.value, value.version) == (8, 2)
        assert datetime.fromisoformat(value.at).tzinfo is not None
        assert store.secret == secret
        assert [rater.name for rater in store.raters()] == ["Dr. Grün"]
        assert [event.kind for event in store.trail()] == ["created", "enrolled", "value", "value"]
        assert store.verify() == 4


def test_a_request_sent_again_changes_nothing_and_is_answered_as_before(
    store_url: str, make_study: MakeStudy
) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        first = store.record(number, 0, "A", REALISM, 3, action_id="action-1")
        store.record(number, 0, "A", REALISM, 4, action_id="action-2", seen_version=1)
        trail = store.trail()
        assert store.record(number, 0, "A", REALISM, 3, action_id="action-1") == first
        assert store.values(number)[Place(0, "A", REALISM)].value == 4
        assert store.trail() == trail
        with pytest.raises(RefusedError, match="used for other values"):
            store.record(number, 0, "A", REALISM, 9, action_id="action-1")
        with pytest.raises(RefusedError, match="used for other values"):
            store.record(number, 0, "B", REALISM, 3, action_id="action-1")


def test_another_rater_may_use_the_same_action_id(store_url: str, make_study: MakeStudy) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        for name in ("A", "B"):
            number = store.enrol(name).rater.number
            assert store.record(number, 0, "A", REALISM, number, action_id="the same").current == number


def test_a_stale_page_is_told_the_present_value_and_nothing_is_overwritten(
    store_url: str, make_study: MakeStudy
) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        store.record(number, 0, "A", REALISM, 3, action_id="tab-one-1")
        late = store.record(number, 0, "A", REALISM, 9, action_id="tab-two-1", seen_version=0)
        assert late == Recorded(version=1, conflict=True, current=3)
        assert store.record(number, 0, "A", REALISM, 9, action_id="tab-two-1") == late
        assert store.values(number)[Place(0, "A", REALISM)].value == 3
        # What both tabs say alike is no conflict.
        assert store.record(number, 0, "A", REALISM, 3, action_id="tab-two-2") == Recorded(1, False, 3)
        assert store.record(number, 0, "A", REALISM, 9, action_id="tab-two-3", seen_version=1).version == 2
        assert store.verify() == 4


def test_of_several_values_all_are_written_or_none(store_url: str, make_study: MakeStudy) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        store.record(number, 0, "B", REALISM, 1, action_id="first-one")
        both = [Change("A", REALISM, 5), Change("B", REALISM, 6)]
        answers = store.record_all(number, 0, both, action_id="second-one")
        assert answers == (Recorded(0, False, None), Recorded(1, True, 1))
        assert set(store.values(number)) == {(0, "B", REALISM)}
        seen = [Change("A", REALISM, 5), Change("B", REALISM, 6, seen_version=1)]
        done = store.record_all(number, 0, seen, action_id="third-one")
        assert done == (Recorded(1, False, 5), Recorded(2, False, 6))
        assert store.record_all(number, 0, seen, action_id="third-one") == done
        with pytest.raises(RefusedError, match="once per action"):
            store.record_all(number, 0, [seen[0], seen[0]], action_id="fourth-one")
        assert store.verify() == 5


def test_a_value_can_be_taken_back(store_url: str, make_study: MakeStudy) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        num_open = len(store.open_places(number))
        store.record(number, 0, "A", REALISM, 0, action_id="action-1")
        assert len(store.open_places(number)) == num_open - 1
        assert (
            store.record(number, 0, "A", REALISM, None, action_id="action-2", seen_version=1).current is None
        )
        assert len(store.open_places(number)) == num_open
        assert store.values(number)[Place(0, "A", REALISM)].version == 2
        store.verify()


@pytest.mark.parametrize(
    ("page", "letter", "field", "value", "message"),
    [
        (0, "A", REALISM, 11, r"clinical_realism must be 0 to 10, got 11"),
        (0, "A", REALISM, -1, r"must be 0 to 10, got -1"),
        (0, "A", REALISM, True, r"must be 0 to 10, got True"),
        (0, "A", REALISM, 2**70, r"must be 0 to 10"),
        (0, "A", RANK, 0, r"rank must be 1 to 4, got 0"),
        (0, REFERENCES, RANK, 5, r"rank must be 1 to 4, got 5"),
        (0, REFERENCES, REALISM, 5, r"no value is asked for on page 0, set '', 'clinical_realism'"),
        (0, "D", REALISM, 5, r"no value is asked for on page 0, set 'D'"),
        (4, "A", REALISM, 5, r"no value is asked for on page 4"),
        (-1, "A", REALISM, 5, r"no value is asked for on page -1"),
        (0, "A", "beauty", 5, r"no value is asked for on page 0, set 'A', 'beauty'"),
    ],
)
def test_values_that_the_page_does_not_ask_for_are_refused(
    store_url: str, make_study: MakeStudy, page: int, letter: str, field: str, value: int, message: str
) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        with pytest.raises(RefusedError, match=message):
            store.record(number, page, letter, field, value, action_id="action-1")
        assert not store.values(number)


def test_who_has_finished_gives_no_more_values_until_opened_again(
    store_url: str, make_study: MakeStudy
) -> None:
    study = make_study(num_prompts=2, num_models=2, num_attention=1, num_repeats=1)
    with RatingStore.open(store_url, study) as store:
        number = store.enrol("A").rater.number
        with pytest.raises(
            RefusedError, match=r"46 values are missing or share a rank, the first on page 1 \(set A"
        ):
            store.finish(number)
        fill(store, number)
        store.record(number, 0, "A", RANK, 2, action_id="same rank", seen_version=1)
        assert store.open_places(number) == ((0, "A", RANK), (0, "B", RANK))
        with pytest.raises(RefusedError, match="2 values are missing or share a rank"):
            store.finish(number)
        store.record(number, 0, "A", RANK, 1, action_id="own rank", seen_version=2)
        assert store.finish(number).finished_at is not None
        assert store.finish(number) == store.raters()[0]
        with pytest.raises(RefusedError, match="is finished and takes no more values"):
            store.record(number, 0, "A", REALISM, 1, action_id="too late", seen_version=1)
        assert store.reopen(number).finished_at is None
        assert (
            store.record(number, 0, "A", REALISM, 1, action_id="still in time", seen_version=1).version == 2
        )
        assert [event.kind for event in store.trail()][-3:] == ["finished", "reopened", "value"]
        store.verify()


def test_codes_are_kept_as_hashes_and_open_the_study_until_they_expire(
    store_url: str, make_study: MakeStudy
) -> None:
    moment = [datetime(2026, 1, 1, tzinfo=UTC)]
    with RatingStore.open(store_url, make_study(), clock=lambda: moment[0]) as store:
        enrolled = store.enrol("A", valid_for=timedelta(days=2))
        other = store.enrol("B")
        typed = enrolled.token.lower().replace("-", " ").replace("0", "o").replace("1", "l")
        assert store.rater_of(typed) == enrolled.rater
        assert store.rater_of(other.token).number == 1
        for wrong in ("", "x", enrolled.token[:-1], code_hash(enrolled.token), "\ud800", "é" * 10_000):
            with pytest.raises(RefusedError, match="not known"):
                store.rater_of(wrong)
        moment[0] += timedelta(days=2)
        with pytest.raises(RefusedError, match=r"expired; ask for a new one\. What was rated is kept"):
            store.rater_of(enrolled.token)
        renewed = store.renew(0)
        assert store.rater_of(renewed.token).number == 0
        with pytest.raises(RefusedError, match="not known"):
            store.rater_of(enrolled.token)
        store.revoke(0)
        with pytest.raises(RefusedError, match="withdrawn"):
            store.rater_of(renewed.token)
        with pytest.raises(RefusedError, match="withdrawn"):
            store.record(0, 0, "A", REALISM, 1, action_id="action-1")
        assert store.rater_of(store.renew(0).token).revoked_at is None
        kept = " ".join(str(event) for event in store.trail())
        assert enrolled.token not in kept
        store.verify()


def test_names_of_raters_are_unique_and_readable(store_url: str, make_study: MakeStudy) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        store.enrol("Dr. A")
        with pytest.raises(RefusedError, match=r"'Dr. A' is enrolled already"):
            store.enrol(" Dr. A ")
        for name in ("", "  ", "x" * 101, "a\nb", "a\x00b", "\ud800"):
            with pytest.raises(RefusedError, match=r"1 to 100 printable characters"):
                store.enrol(name)
        for number in (1, -1):
            with pytest.raises((RefusedError, ValueError), match=r"no rater number 1|0 or more"):
                store.record(number, 0, "A", REALISM, 1, action_id="action-1")
        for action in ("", "short", "x" * 101, "with\nbreak"):
            with pytest.raises(RefusedError, match="action_id must be 8 to 100"):
                store.record(0, 0, "A", REALISM, 1, action_id=action)


def test_a_store_of_another_study_is_refused(store_url: str, make_study: MakeStudy) -> None:
    with RatingStore.open(store_url, make_study(seed=1)) as store:
        store.enrol("A")
    with pytest.raises(RefusedError, match=r"ratings of another study .*; choose a new database"):
        RatingStore.open(store_url, make_study(seed=2))


def test_the_trail_can_neither_be_changed_nor_shortened(store_url: str, make_study: MakeStudy) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        store.enrol("A")
    for statement in ("UPDATE review_events SET at = 'then'", "DELETE FROM review_events WHERE seq = 2"):
        with pytest.raises(DBAPIError, match="audit trail is append-only"):
            execute(store_url, statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE review_events SET at = '2020' WHERE seq = 3", "row 3: was changed"),
        ("UPDATE review_events SET content = '{}' WHERE seq = 3", "row 3: was changed"),
        ("UPDATE review_events SET content = '{' WHERE seq = 3", "row 3: was changed"),
        ("UPDATE review_events SET kind = 'no kind' WHERE seq = 3", "row 3: was changed"),
        ("DELETE FROM review_events WHERE seq = 3", "row 3: seq must be 3, got 4"),
        ("DELETE FROM review_events WHERE seq = 5", "ends with row 4, but the last row written has"),
        ("UPDATE review_values SET value = 9 WHERE letter = 'A'", r"set 'A', clinical_realism: is \(9, 2\)"),
        ("DELETE FROM review_values WHERE letter = 'A'", r"set 'A', clinical_realism: is None"),
        (
            "INSERT INTO review_values VALUES (0, 1, 'A', 'diversity', 3, 1, 'now')",
            r"page 1, set 'A', diversity: is \(3, 1\) .* says None",
        ),
    ],
)
def test_what_somebody_with_the_database_did_is_found(
    store_url: str, make_study: MakeStudy, statement: str, message: str
) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        store.record(number, 0, "A", REALISM, 4, action_id="action-1")
        store.record(number, 0, "B", REALISM, 4, action_id="action-2")
        store.record(number, 0, "A", REALISM, 5, action_id="action-3", seen_version=1)
        assert store.verify() == 5
        if store_url.startswith("sqlite"):
            execute(store_url, "DROP TRIGGER review_no_update", "DROP TRIGGER review_no_delete", statement)
        else:
            execute(store_url, "DROP TRIGGER review_no_change ON review_events", statement)
        with pytest.raises(TrailError, match=message):
            store.verify()


def test_twenty_raters_at_once_lose_nothing(store_url: str, make_study: MakeStudy) -> None:
    study = make_study(num_prompts=2, images_per_set=1)
    with RatingStore.open(store_url, study) as one, RatingStore.open(store_url, study) as other:

        def rate(index: int) -> int:
            store = one if index % 2 else other  # two stores stand for two processes on one database
            number = store.enrol(f"rater {index}").rater.number
            for page in store.pages(number):
                for _, letter, field in places_on(study, page)[:5]:
                    action = f"{number}-{page.number}-{letter}-{field}"
                    assert not store.record(number, page.number, letter, field, 1, action_id=action).conflict
            return number

        with ThreadPoolExecutor(20) as pool:
            done = list(pool.map(rate, range(20)))
        assert sorted(done) == list(range(20))
        assert all(len(one.values(number)) == 10 for number in done)
        assert one.verify() == 1 + 20 + 200


def test_the_same_action_from_many_threads_is_one_step(store_url: str, make_study: MakeStudy) -> None:
    study = make_study()
    with RatingStore.open(store_url, study) as one, RatingStore.open(store_url, study) as other:
        number = one.enrol("A").rater.number

        def send(store: RatingStore) -> Recorded:
            return store.record(number, 0, "A", REALISM, 6, action_id="the same")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(send, [one, other] * 8))
        assert set(answers) == {Recorded(1, False, 6)}
        assert sum(event.kind == "value" for event in one.trail()) == 1


def test_different_values_from_many_threads_leave_one_and_tell_the_others(
    store_url: str, make_study: MakeStudy
) -> None:
    study = make_study()
    with RatingStore.open(store_url, study) as one, RatingStore.open(store_url, study) as other:
        number = one.enrol("A").rater.number

        def send(value: int) -> Recorded:
            store = one if value % 2 else other
            return store.record(number, 0, "A", REALISM, value, action_id=f"tab number {value}")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(send, range(10)))
        assert sum(not answer.conflict for answer in answers) == 1
        assert len({answer.current for answer in answers}) == 1
        assert one.values(number)[Place(0, "A", REALISM)].version == 1


def test_the_trail_of_a_store_verifies_by_itself(store_url: str, make_study: MakeStudy) -> None:
    study = make_study()
    with RatingStore.open(store_url, study) as store:
        fill(store, store.enrol("A").rater.number)
        trail = store.trail()
        assert verify_trail(trail, last_sha256=trail[-1].sha256) == len(trail) == 2 + 4 * 22
        assert trail[0].content["study"] == study.digest
