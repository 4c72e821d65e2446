"""Where ratings are kept: a database of a study, SQLite beside it or PostgreSQL by URL.

A value is acknowledged only after its commit is on the disk (SQLite: write-ahead log, synchronous=FULL). Every
change is one row of the audit trail in the same transaction, and carries the id that the page gave to the rater's
action: a request that is sent again changes nothing and gets the same answer. Whoever changes a value says which
version of it was seen; a stale page is told the present value, and nothing is overwritten.

One `RatingStore` may be used by many threads, and many processes may use one database.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, insert, select

from medgen_review import database, rater_codes
from medgen_review.audit import Event, GivenValue, TrailError, verify_trail
from medgen_review.database import RefusedError, StoreError, append_event, meta, raters, read_events, values
from medgen_review.schedule import Page, Place, pages_for, places_on, value_range
from medgen_review.store_rows import (
    Change,
    Enrolled,
    Rater,
    Recorded,
    Value,
    answers_before,
    change_rater,
    check_open,
    checked_name,
    find_rater,
    values_of,
    write_value,
)
from medgen_review.study import RANK, Study

__all__ = ["Change", "Enrolled", "Rater", "RatingStore", "Recorded", "RefusedError", "StoreError", "Value"]

VALID_FOR = timedelta(days=90)


class RatingStore:
    """The ratings of one study; see `RatingStore.open`."""

    def __init__(
        self, engine: Engine, study: Study, secret: bytes, *, clock: Callable[[], datetime], timeout_s: float
    ) -> None:
        self.study = study
        self.secret = secret  # of this study: names of images, signatures
        self._engine = engine
        self._timeout_s = timeout_s
        self._clock = clock
        self._pages: dict[int, tuple[Page, ...]] = {}
        self._places: dict[int, frozenset[Place]] = {}
        # Threads of one process queue here, fairly and at once, instead of polling the database's own lock.
        self._one_writer = threading.Lock()

    @classmethod
    def open(
        cls,
        url: str | Path,
        study: Study,
        *,
        timeout_s: float = 10.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Self:
        """Open the database of a study; a new one is prepared.

        Args:
            url: File of an SQLite database, `sqlite:///FILE`, or `postgresql://USER@HOST/DATABASE`.
            study: The study; a database that holds another is refused.
            timeout_s: How long to wait for another writer before giving up.
            clock: The time, with a time zone.

        Raises:
            RefusedError: If the database belongs to another study or is none.
            StoreError: If it cannot be reached, or is locked or full.
        """
        engine = database.open_engine(url, timeout_s)
        try:
            secret = database.prepare(engine, study.digest, now=clock())
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, study, secret, clock=clock, timeout_s=timeout_s)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def enrol(self, name: str, *, valid_for: timedelta = VALID_FOR) -> Enrolled:
        """Add a rater.

        Args:
            name: Any text of 1 to 100 characters, unique in the study; never shown to other raters.
            valid_for: How long the code opens the study.

        Raises:
            RefusedError: If the name is empty, too long or taken.
        """
        name = checked_name(name)
        token = rater_codes.new_code()
        with self._write() as (connection, now):
            if connection.execute(select(raters.c.number).where(raters.c.name == name)).first():
                raise RefusedError(
                    f"a rater called {name!r} is enrolled already; renew the code or choose another name"
                )
            number = len(connection.execute(select(raters.c.number)).all())  # none is ever deleted
            row = {
                "number": number,
                "name": name,
                "token_sha256": rater_codes.code_hash(token),
                "enrolled_at": database.iso(now),
                "expires_at": database.iso(now + valid_for),
            }
            connection.execute(insert(raters).values(row))
            append_event(connection, now, "enrolled", number, {"name": name})
            return Enrolled(find_rater(connection, number), token)

    def renew(self, number: int, *, valid_for: timedelta = VALID_FOR) -> Enrolled:
        """Give a rater a new code; the old one opens nothing any more, the ratings stay."""
        token = rater_codes.new_code()
        with self._write() as (connection, now):
            changed = {
                "token_sha256": rater_codes.code_hash(token),
                "expires_at": database.iso(now + valid_for),
                "revoked_at": None,
            }
            change_rater(connection, number, changed)
            append_event(connection, now, "renewed", number, {})
            return Enrolled(find_rater(connection, number), token)

    def revoke(self, number: int) -> Rater:
        """Close the study to a rater; the ratings stay, and `renew` opens it again."""
        with self._write() as (connection, now):
            change_rater(connection, number, {"revoked_at": database.iso(now)})
            append_event(connection, now, "revoked", number, {})
            return find_rater(connection, number)

    def rater_of(self, token: str) -> Rater:
        """Return the rater whose code this is.

        Raises:
            RefusedError: If the code is unknown, expired or revoked.
        """
        with database.reading(self._engine) as connection:
            query = select(raters.c.number).where(raters.c.token_sha256 == rater_codes.code_hash(token))
            found = connection.execute(query).first()
            if found is None:
                raise RefusedError("this code is not known; check it, or ask for a new one")
            rater = find_rater(connection, found.number)
        if rater.revoked_at is not None:
            raise RefusedError("this code was withdrawn; ask for a new one")
        if datetime.fromisoformat(rater.expires_at) <= self._clock():
            raise RefusedError("this code has expired; ask for a new one. What was rated is kept")
        return rater

    def raters(self) -> tuple[Rater, ...]:
        """Return all raters in the order of their enrolment."""
        with database.reading(self._engine) as connection:
            numbers = [
                row.number for row in connection.execute(select(raters.c.number).order_by(raters.c.number))
            ]
            return tuple(find_rater(connection, number) for number in numbers)

    def pages(self, number: int) -> tuple[Page, ...]:
        """Return the pages of a rater; computed once."""
        if number not in self._pages:
            self._pages[number] = pages_for(self.study, number)
        return self._pages[number]

    def record(
        self,
        number: int,
        page: int,
        letter: str,
        field: str,
        value: int | None,
        *,
        action_id: str,
        seen_version: int | None = None,
    ) -> Recorded:
        """Give, change or (None) take back one value; see `record_all`."""
        change = Change(letter, field, value, seen_version)
        return self.record_all(number, page, [change], action_id=action_id)[0]

    def record_all(
        self, number: int, page: int, changes: Sequence[Change], *, action_id: str
    ) -> tuple[Recorded, ...]:
        """Give several values of one page: all of them, or none if one of them is in conflict.

        Args:
            number: Of the rater.
            page: Of the rater's study.
            changes: At most one per place.
            action_id: Made by the page for this action of the rater, 8 to 100 printable characters. The
                same id again changes nothing and is answered as before.

        Returns:
            One answer per change.

        Raises:
            RefusedError: If the rater, a place or a value is not of this study, the rater has finished or was
                revoked, or the id was used for something else.
            StoreError: If the database is locked, full or away: nothing was written, try again.
        """
        places = [self._checked_place(number, page, change) for change in changes]
        if len(set(places)) != len(places):
            raise RefusedError("each value may be given once per action")
        if not 8 <= len(action_id) <= 100 or not action_id.isprintable():
            raise RefusedError("action_id must be 8 to 100 printable characters")
        with self._write() as (connection, now):
            rater = find_rater(connection, number)
            standing = values_of(connection, number, page=page)
            there = [standing.get(place, Value(None, 0, "")) for place in places]
            done = answers_before(connection, number, action_id, places, changes, there)
            if done is not None:
                return done
            check_open(rater)
            stale = [
                value.value != change.value and value.version != (change.seen_version or 0)
                for value, change in zip(there, changes, strict=True)
            ]
            if any(stale):
                return tuple(
                    Recorded(value.version, conflict=is_stale, current=value.value)
                    for value, is_stale in zip(there, stale, strict=True)
                )
            return tuple(
                write_value(connection, now, number, place, change.value, value, (action_id, part))
                for part, (place, change, value) in enumerate(zip(places, changes, there, strict=True))
            )

    def values(self, number: int) -> Mapping[Place, Value]:
        """Return all values of a rater as they stand, those taken back included."""
        with database.reading(self._engine) as connection:
            return values_of(connection, number)

    def open_places(self, number: int) -> tuple[Place, ...]:
        """Return what is still to be given: values without an answer, and ranks that two sets share."""
        given = {place: value.value for place, value in self.values(number).items()}
        still_open = []
        for page in self.pages(number):
            places = places_on(self.study, page)
            ranks = [given.get(place) for place in places if place.field == RANK]
            for place in places:
                value = given.get(place)
                if value is None or (place.field == RANK and ranks.count(value) > 1):
                    still_open.append(place)
        return tuple(still_open)

    def finish(self, number: int) -> Rater:
        """Close a rater's study; again is no error.

        Raises:
            RefusedError: If a value is missing or two sets share a rank.
        """
        still_open = self.open_places(number)
        if still_open:
            first = still_open[0]
            raise RefusedError(
                f"{len(still_open)} values are missing or share a rank, the first on page {first.page + 1} "
                f"(set {first.letter or 'of references'}, {first.field})"
            )
        with self._write() as (connection, now):
            if find_rater(connection, number).finished_at is None:
                change_rater(connection, number, {"finished_at": database.iso(now)})
                append_event(connection, now, "finished", number, {})
            return find_rater(connection, number)

    def reopen(self, number: int) -> Rater:
        """Let a rater who has finished change values again."""
        with self._write() as (connection, now):
            if find_rater(connection, number).finished_at is not None:
                change_rater(connection, number, {"finished_at": None})
                append_event(connection, now, "reopened", number, {})
            return find_rater(connection, number)

    def trail(self) -> tuple[Event, ...]:
        """Return the audit trail in order."""
        with database.reading(self._engine) as connection:
            return read_events(connection)

    def verify(self) -> int:
        """Check the trail, that it is whole, and that the values are what it says; return its number of rows.

        Raises:
            TrailError: At the first row that was changed, lost, added or moved, or for a value that the trail does
                not know.
        """
        with database.reading(self._engine) as connection:
            trail = read_events(connection)
            head = connection.execute(select(meta.c.value).where(meta.c.key == "head")).scalar_one()
            standing = {
                (row.rater, row.page, row.letter, row.field): (row.value, row.version)
                for row in connection.execute(select(values))
            }
        num_events = verify_trail(trail, last_sha256=head)
        if not trail or trail[0].kind != "created" or trail[0].content.get("study") != self.study.digest:
            raise TrailError("audit trail, row 1: must say that this study was created")
        replayed = {}
        for event in trail:
            if event.kind == "value":
                given = GivenValue.model_validate(event.content)
                replayed[event.rater, given.page, given.letter, given.field] = (given.value, given.version)
        for key in sorted(set(standing) | set(replayed), key=str):
            if standing.get(key) != replayed.get(key):
                raise TrailError(
                    f"values: rater {key[0]}, page {key[1]}, set {key[2]!r}, {key[3]}: is {standing.get(key)} as "
                    f"(value, version), but the audit trail says {replayed.get(key)}"
                )
        return num_events

    @contextmanager
    def _write(self) -> Iterator[tuple[Connection, datetime]]:
        if not self._one_writer.acquire(timeout=self._timeout_s):
            raise StoreError("the database is busy with other writers; nothing was written, try again")
        try:
            with database.writing(self._engine) as connection:
                yield connection, self._clock()
        finally:
            self._one_writer.release()

    def _checked_place(self, number: int, page: int, change: Change) -> Place:
        pages = self.pages(number)
        if number not in self._places:
            self._places[number] = frozenset(place for each in pages for place in places_on(self.study, each))
        place = Place(page, change.letter, change.field)
        if place not in self._places[number]:
            raise RefusedError(
                f"no value is asked for on page {page}, set {change.letter!r}, {change.field!r}"
            )
        lowest, highest = value_range(self.study, pages[page], change.field)
        value = change.value
        if value is not None and (type(value) is not int or not lowest <= value <= highest):
            raise RefusedError(f"{change.field} must be {lowest} to {highest}, got {value!r}")
        return place
