"""SQL in every text that comes from outside: it is kept as text, or refused; nothing else changes."""

from collections.abc import Callable
from itertools import product

from medgen_review.audit import Event
from medgen_review.export import rating_rows
from medgen_review.schedule import pages_for
from medgen_review.store import Change, RatingStore, RefusedError
from medgen_review.study import Study

MakeStudy = Callable[..., Study]
REALISM = "clinical_realism"

OPENINGS = (
    "",
    "'",
    '"',
    "`",
    "')",
    '")',
    "'))",
    "1",
    "1'",
    "x' ",
    "%",
    "\\'",
    "';",
    "$$",
    "$1",
    ":value",
    "?",
    "{0}",
    "\u02bc",
    "\uff07",
)
TAILS = (
    " OR 1=1 --",
    " OR 'a'='a",
    "; DROP TABLE review_values; --",
    "; DELETE FROM review_raters; --",
    "; UPDATE review_values SET value = 10; --",
    "; INSERT INTO review_meta VALUES ('x', 'y'); --",
    " UNION SELECT token_sha256 FROM review_raters --",
    " UNION ALL SELECT NULL,NULL,NULL,NULL,NULL,NULL,NULL --",
    "; DROP TRIGGER review_no_update; --",
    "; ATTACH DATABASE '/tmp/x' AS x; --",
    "; PRAGMA writable_schema=1; --",
    "; SELECT pg_sleep(10); --",
    " AND (SELECT count(*) FROM sqlite_master) > 0 --",
    "||(SELECT version())||'",
    "; COPY review_raters TO '/tmp/x'; --",
    " /* */ OR /* */ 1=1 #",
    "; ROLLBACK; BEGIN; --",
    "; COMMIT; DROP TABLE review_events; --",
    " LIKE '%",
    " ESCAPE '\\",
    " IN (SELECT value FROM review_meta) --",
    " IS NOT NULL --",
    "; VACUUM; --",
    " LIMIT 0 OFFSET (SELECT randomblob(1e9)) --",
    "; TRUNCATE review_events; --",
)
PAYLOADS = [opening + tail for opening, tail in product(OPENINGS, TAILS)]


def state(store: RatingStore, number: int) -> tuple[object, ...]:
    return store.raters(), dict(store.values(number)), store.trail()


def test_there_are_five_hundred_payloads() -> None:
    assert len(set(PAYLOADS)) == 500


def test_no_payload_as_code_letter_field_or_action_changes_anything(
    store_url: str, make_study: MakeStudy
) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        enrolled = store.enrol("A")
        number = enrolled.rater.number
        store.record(number, 0, "A", REALISM, 5, action_id="action-1")
        before = state(store, number)
        for payload in PAYLOADS:
            for attempt in (
                lambda p=payload: store.rater_of(p),
                lambda p=payload: store.record(number, 0, p, REALISM, 1, action_id="action-2"),
                lambda p=payload: store.record(number, 0, "A", p, 1, action_id="action-2"),
            ):
                try:
                    attempt()
                except RefusedError:
                    continue
                raise AssertionError(f"{payload!r} was taken")
            # An action id may be any text: with nothing to change it must not do so.
            store.record(number, 0, "A", REALISM, 5, action_id=f"action {payload}")
        assert state(store, number) == before
        assert store.rater_of(enrolled.token) == enrolled.rater
        store.verify()


def test_payloads_as_names_of_raters_and_actions_are_kept_letter_by_letter(
    store_url: str, make_study: MakeStudy
) -> None:
    with RatingStore.open(store_url, make_study(num_prompts=1)) as store:
        for number, payload in enumerate(PAYLOADS):
            store.enrol(payload)
            store.record(number, 0, "A", REALISM, 5, action_id=f"action {payload}")
        assert [rater.name for rater in store.raters()] == [payload.strip() for payload in PAYLOADS]
        trail = store.trail()
        assert [event.action for event in trail if event.kind == "value"] == [f"action {p}" for p in PAYLOADS]
        assert all(isinstance(event, Event) for event in trail)
        assert store.verify() == 1 + 2 * 500


def test_payloads_as_models_and_prompts_are_kept_letter_by_letter(
    store_url: str, make_study: MakeStudy
) -> None:
    studies = [
        make_study(
            models=PAYLOADS[start : start + 25], prompts=PAYLOADS[start : start + 25], images_per_set=1
        )
        for start in range(0, len(PAYLOADS), 25)
    ]
    for study in studies:
        assert {model for page in pages_for(study, 0) for model in page.order} == set(study.models)
    study = studies[0]
    with RatingStore.open(store_url, study) as store:
        number = store.enrol("A").rater.number
        for page in store.pages(number):
            changes = [Change(letter, REALISM, 5) for letter in page.letters]
            store.record_all(number, page.number, changes, action_id=f"action {page.number}")
        rows = rating_rows(study, store)
        assert sorted(row.model for row in rows) == sorted(25 * study.models)
        assert store.verify() == 2 + 25 * 25
