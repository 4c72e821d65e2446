"""The audit trail: every step of a study as a chain of hashes, so that a changed, lost or moved row shows.

    hash_k = SHA-256(hash_(k-1) || canonical JSON of row k),  hash_0 = 64 zeros

The first row names the study. The hashes are not keyed: the chain shows damage and careless edits, and whoever
wrote down the last hash also sees a chain that somebody with the database computed anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgen_review.study import Sha256, StudyError

NO_HASH = "0" * 64
EventKind = Literal["created", "enrolled", "renewed", "revoked", "value", "finished", "reopened"]


Content = Mapping[str, int | str | None]


class TrailError(StudyError):
    """An audit trail is not as it was written; the message names the first broken row."""


class GivenValue(BaseModel):
    """What an event of kind `value` says: the value of a place, and how often it was changed up to then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: int
    letter: str
    field: str
    value: int | None
    version: int


class Event(BaseModel):
    """One row of the trail.

    Attributes:
        seq: 1, 2, 3 ..
        at: ISO 8601, UTC.
        kind: What happened.
        rater: Number of the rater; none for the study itself.
        content: Of a value: a `GivenValue`. Of an enrolment: the name. Of the creation: the digest of the study.
        action: Of a value: id that the page gave to the rater's action.
        previous: Hash of the row before.
        sha256: Hash of this row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=1)
    at: str
    kind: EventKind
    rater: int | None = None
    content: Content
    action: str | None = None
    previous: Sha256
    sha256: Sha256


def event_hash(event: Mapping[str, object]) -> str:
    """Return the hash of an event given as JSON values; its own `sha256`, if any, is left out."""
    kept = {key: value for key, value in event.items() if key != "sha256"}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(f"{kept['previous']}{canonical}".encode("ascii")).hexdigest()


def chained(
    seq: int,
    previous: str,
    *,
    at: str,
    kind: EventKind,
    content: Content,
    rater: int | None = None,
    action: str | None = None,
) -> Event:
    """Return an event with its hash.

    Args:
        seq: Place in the trail, from 1.
        previous: Hash of the event before; `NO_HASH` for the first.
        at: Time, ISO 8601, UTC.
        kind: What happened.
        content: See `Event`.
        rater: Number of the rater.
        action: Id of the rater's action.
    """
    fields: dict[str, object] = {
        "seq": seq,
        "at": at,
        "kind": kind,
        "rater": rater,
        "content": dict(content),
        "action": action,
        "previous": previous,
    }
    return Event.model_validate({**fields, "sha256": event_hash(fields)})


def verify_trail(events: Iterable[Event], *, last_sha256: str | None = None) -> int:
    """Check a whole trail.

    Args:
        events: All rows in order.
        last_sha256: Hash that the last row must have, if known: without it nobody sees that the end was cut off.

    Returns:
        Number of rows.

    Raises:
        TrailError: At the first row that was changed, lost, added or moved.
    """
    previous, num_events = NO_HASH, 0
    for seq, event in enumerate(events, start=1):
        if event.seq != seq:
            raise TrailError(
                f"audit trail, row {seq}: seq must be {seq}, got {event.seq}; a row was lost or moved"
            )
        if event.previous != previous:
            raise TrailError(
                f"audit trail, row {seq}: does not follow row {seq - 1}; one of the two was changed or moved"
            )
        if event_hash(event.model_dump(mode="json")) != event.sha256:
            raise TrailError(f"audit trail, row {seq}: was changed after it was written")
        previous, num_events = event.sha256, seq
    if last_sha256 is not None and previous != last_sha256:
        raise TrailError(
            f"audit trail: ends with row {num_events}, but the last row written has hash {last_sha256[:12]}..; "
            "rows at the end were lost"
        )
    return num_events


def read_trail(file: Path) -> tuple[Event, ...]:
    """Read an exported `audit.jsonl`; `verify_trail` checks it.

    Raises:
        TrailError: If the file cannot be read or a row is no event.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TrailError(
            f"{file}: cannot be read ({error.strerror}); write it by `medgen review export`"
        ) from error
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            events.append(Event.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "row"
            raise TrailError(f"{file}: row {number}: {place}: {first['msg']}") from error
    return tuple(events)
