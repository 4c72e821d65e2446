import json
from pathlib import Path

import pytest
from medgen_review.audit import NO_HASH, Event, TrailError, chained, event_hash, read_trail, verify_trail

NUM_EVENTS = 6


@pytest.fixture
def trail() -> list[Event]:
    events: list[Event] = []
    for seq in range(1, NUM_EVENTS + 1):
        content: dict[str, int | str | None] = {
            "page": seq,
            "letter": "Ä",
            "field": "realism",
            "value": seq,
            "version": 1,
        }
        previous = events[-1].sha256 if events else NO_HASH
        events.append(chained(seq, previous, at=f"2026-01-0{seq}", kind="value", content=content, rater=0))
    return events


def test_a_whole_trail_verifies(trail: list[Event]) -> None:
    assert verify_trail(trail) == NUM_EVENTS
    assert verify_trail(trail, last_sha256=trail[-1].sha256) == NUM_EVENTS
    assert verify_trail([]) == 0


def test_the_hash_is_that_of_the_previous_one_and_the_canonical_row(trail: list[Event]) -> None:
    import hashlib

    row = json.loads(trail[1].model_dump_json())
    row.pop("sha256")
    text = row["previous"] + json.dumps(row, sort_keys=True, separators=(",", ":"))
    assert trail[1].sha256 == hashlib.sha256(text.encode()).hexdigest() == event_hash(row)
    assert trail[0].previous == "0" * 64


@pytest.mark.parametrize("row", range(NUM_EVENTS))
@pytest.mark.parametrize(
    "changed",
    [
        {"at": "2020-01-01"},
        {"kind": "revoked"},
        {"rater": 1},
        {"rater": None},
        {"content": {"value": 10}},
        {"content": {}},
        {"action": "other"},
        {"sha256": "f" * 64},
    ],
)
def test_any_change_of_any_row_is_found_and_the_row_named(
    trail: list[Event], row: int, changed: dict[str, object]
) -> None:
    trail[row] = trail[row].model_copy(update=changed)
    with pytest.raises(TrailError, match=rf"row {row + 1}: was changed"):
        verify_trail(trail)


@pytest.mark.parametrize("row", range(NUM_EVENTS))
def test_a_change_with_its_own_hash_made_anew_is_found_at_the_next_row(trail: list[Event], row: int) -> None:
    forged = trail[row].model_copy(update={"content": {"value": 10}})
    trail[row] = forged.model_copy(update={"sha256": event_hash(forged.model_dump(mode="json"))})
    last = "f" * 64 if row < NUM_EVENTS - 1 else "0" * 63 + "1"
    message = (
        rf"row {row + 2}: does not follow row {row + 1}"
        if row < NUM_EVENTS - 1
        else "rows at the end were lost"
    )
    with pytest.raises(TrailError, match=message):
        verify_trail(trail, last_sha256=last)


@pytest.mark.parametrize("row", range(NUM_EVENTS))
def test_a_lost_row_is_found(trail: list[Event], row: int) -> None:
    last = trail[-1].sha256
    del trail[row]
    message = (
        "rows at the end were lost" if row == NUM_EVENTS - 1 else rf"row {row + 1}: seq must be {row + 1}"
    )
    with pytest.raises(TrailError, match=message):
        verify_trail(trail, last_sha256=last)


@pytest.mark.parametrize("first", range(NUM_EVENTS))
@pytest.mark.parametrize("second", range(NUM_EVENTS))
def test_rows_that_changed_places_are_found(trail: list[Event], first: int, second: int) -> None:
    if first == second:
        return
    trail[first], trail[second] = trail[second], trail[first]
    with pytest.raises(TrailError, match=rf"row {min(first, second) + 1}: seq must be"):
        verify_trail(trail)


def test_a_row_told_twice_is_found(trail: list[Event]) -> None:
    with pytest.raises(TrailError, match="row 4: seq must be 4, got 3"):
        verify_trail([*trail[:3], *trail[2:]])


def test_an_exported_trail_is_read_and_its_faults_are_named(trail: list[Event], tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(event.model_dump_json() + "\n" for event in trail), encoding="utf-8")
    assert list(read_trail(file)) == trail
    file.write_text(file.read_text().replace('"seq":3', '"seq":"three"'))
    with pytest.raises(TrailError, match=r"audit.jsonl: row 3: seq: .*integer"):
        read_trail(file)
    file.write_text("{")
    with pytest.raises(TrailError, match=r"audit.jsonl: row 1: "):
        read_trail(file)
    with pytest.raises(TrailError, match=r"cannot be read .*medgen review export"):
        read_trail(tmp_path / "none.jsonl")
