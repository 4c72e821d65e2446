"""Raters and values as rows of the database: what the store reads, checks and writes on one open connection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from medgen_review.audit import GivenValue
from medgen_review.database import RefusedError, append_event, iso, raters, read_events, values
from medgen_review.schedule import Place


@dataclass(frozen=True)
class Rater:
    """A rater: `number` is the place in the balanced design, from 0."""

    number: int
    name: str
    enrolled_at: str
    expires_at: str
    revoked_at: str | None
    finished_at: str | None


@dataclass(frozen=True)
class Enrolled:
    """A new rater, and the code to log in with: it is shown once and kept only as a hash."""

    rater: Rater
    token: str


@dataclass(frozen=True)
class Value:
    """A value as it stands; None after it was taken back. `version` counts its changes, from 1."""

    value: int | None
    version: int
    at: str


@dataclass(frozen=True)
class Change:
    """A value to be given, and the version the rater saw there: 0 or None where there was none."""

    letter: str
    field: str
    value: int | None
    seen_version: int | None = None


@dataclass(frozen=True)
class Recorded:
    """The answer to a change.

    Attributes:
        version: Version that stands now.
        conflict: The page was stale: nothing was written.
        current: Value that stands now.
    """

    version: int
    conflict: bool
    current: int | None


def checked_name(name: str) -> str:
    """Return a rater's name without space around it, or refuse it."""
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise RefusedError(f"a rater's name must be 1 to 100 printable characters, got {name[:120]!r}")
    return name


def check_open(rater: Rater) -> None:
    """Refuse a rater who was revoked or has finished."""
    if rater.revoked_at is not None:
        raise RefusedError(
            "this code was withdrawn: the study takes no more values from it; ask for a new one"
        )
    if rater.finished_at is not None:
        raise RefusedError("this study is finished and takes no more values; ask to open it again")


def find_rater(connection: Connection, number: int) -> Rater:
    """Return a rater, or refuse a number that nobody has."""
    row = connection.execute(select(raters).where(raters.c.number == number)).mappings().first()
    if row is None:
        raise RefusedError(f"there is no rater number {number} in this study")
    return Rater(**{key: value for key, value in row.items() if key != "token_sha256"})


def change_rater(connection: Connection, number: int, changed: Mapping[str, str | None]) -> None:
    """Change columns of a rater."""
    find_rater(connection, number)
    connection.execute(update(raters).where(raters.c.number == number).values(**changed))


def values_of(connection: Connection, number: int, *, page: int | None = None) -> dict[Place, Value]:
    """Return the values of a rater as they stand: all of them, or those of one page."""
    query = select(values).where(values.c.rater == number)
    if page is not None:
        query = query.where(values.c.page == page)
    rows = connection.execute(query)
    return {Place(row.page, row.letter, row.field): Value(row.value, row.version, row.at) for row in rows}


def answers_before(
    connection: Connection,
    number: int,
    action_id: str,
    places: Sequence[Place],
    changes: Sequence[Change],
    there: Sequence[Value],
) -> tuple[Recorded, ...] | None:
    """Return how this action was answered before, or None if nothing was written for it."""
    steps = read_events(connection, rater=number, action=action_id)
    given = [GivenValue.model_validate(step.content) for step in steps]
    before = {Place(step.page, step.letter, step.field): step for step in given}
    if not before:
        return None
    answers = []
    for place, change, value in zip(places, changes, there, strict=True):
        step = before.get(place)
        if step is None:  # it stood already as it was asked for
            answers.append(Recorded(value.version, conflict=False, current=value.value))
        elif step.value == change.value:
            answers.append(Recorded(step.version, conflict=False, current=step.value))
            del before[place]
    if before:
        raise RefusedError(
            "this action_id was used for other values already; make a new one for every action"
        )
    return tuple(answers)


def write_value(
    connection: Connection,
    now: datetime,
    number: int,
    place: Place,
    value: int | None,
    there: Value,
    action: tuple[str, int],
) -> Recorded:
    """Make a value stand and add the step to the trail; one that stands already is no step."""
    if value == there.value:
        return Recorded(there.version, conflict=False, current=value)
    version = there.version + 1
    key = {"rater": number, **place._asdict()}
    given = {"value": value, "version": version, "at": iso(now)}
    if there.version == 0:
        connection.execute(insert(values).values(**key, **given))
    else:
        here = [values.c[name] == part for name, part in key.items()]
        connection.execute(update(values).where(*here).values(**given))
    content = {**place._asdict(), "value": value, "version": version}
    append_event(connection, now, "value", number, content, action=action)
    return Recorded(version, conflict=False, current=value)
