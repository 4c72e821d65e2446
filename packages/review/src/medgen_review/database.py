"""The tables of a study's database, its connections, and what its errors mean in words.

`review_values` holds what stands, `review_events` every step (`audit.py`); triggers refuse to change or delete one.
Everything that comes from outside is a bound parameter.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from medgen_review.audit import NO_HASH, Content, Event, EventKind, TrailError, chained

STORE_FORMAT = "medgen-review-store 1"
_LOCK_OF_SET_UP = (
    5_640_121_943  # any number, the same for all: PostgreSQL's advisory lock while tables are made
)

_tables = MetaData()
meta = Table(
    "review_meta", _tables, Column("key", String(40), primary_key=True), Column("value", Text, nullable=False)
)
raters = Table(
    "review_raters",
    _tables,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String(100), nullable=False, unique=True),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("enrolled_at", String(40), nullable=False),
    Column("expires_at", String(40), nullable=False),
    Column("revoked_at", String(40)),
    Column("finished_at", String(40)),
)
values = Table(
    "review_values",
    _tables,
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("page", Integer, primary_key=True, autoincrement=False),
    Column("letter", String(1), primary_key=True),
    Column("field", String(64), primary_key=True),
    Column("value", Integer),
    Column("version", Integer, nullable=False),
    Column("at", String(40), nullable=False),
)
events = Table(
    "review_events",
    _tables,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", String(40), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("rater", Integer),
    Column("content", Text, nullable=False),
    Column("action", String(120)),
    Column("part", Integer),
    Column("previous", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    UniqueConstraint("rater", "action", "part"),
)

_APPEND_ONLY = "the audit trail is append-only"
_SQLITE_TRIGGERS = tuple(
    f"CREATE TRIGGER IF NOT EXISTS review_no_{verb.lower()} BEFORE {verb} ON review_events "
    f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
    for verb in ("UPDATE", "DELETE")
)
_POSTGRESQL_TRIGGERS = (
    "CREATE OR REPLACE FUNCTION review_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$",
    "CREATE OR REPLACE TRIGGER review_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON review_events "
    "FOR EACH STATEMENT EXECUTE FUNCTION review_append_only()",
)


class StoreError(Exception):
    """Nothing was written because the database is locked, full or away; the same request may be sent again."""


class RefusedError(StoreError):
    """Nothing was written because of what was asked for; the same request would be refused again."""


def iso(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def open_engine(url: str | Path, timeout_s: float) -> Engine:
    """Return connections to a database; see `RatingStore.open`."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": timeout_s}, pool_timeout=timeout_s)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = f"-c lock_timeout={round(timeout_s * 1000)}"
    try:
        return create_engine(
            parsed,
            connect_args={"options": options, "connect_timeout": max(2, round(timeout_s))},
            pool_pre_ping=True,
            pool_timeout=timeout_s,
        )
    except ModuleNotFoundError as error:
        raise RefusedError("PostgreSQL needs its driver: install medgen-review[postgresql]") from error


def prepare(engine: Engine, study_digest: str, *, now: datetime) -> bytes:
    """Make the tables of a new database, check those of an old one, and return the study's secret, 32 bytes."""
    with writing(engine, set_up=True) as connection:
        _tables.create_all(connection)
        for trigger in _SQLITE_TRIGGERS if engine.dialect.name == "sqlite" else _POSTGRESQL_TRIGGERS:
            connection.execute(text(trigger))
        known = {row.key: row.value for row in connection.execute(select(meta))}
        if not known:
            known = {
                "format": STORE_FORMAT,
                "study": study_digest,
                "secret": secrets.token_hex(32),
                "head": NO_HASH,
            }
            connection.execute(insert(meta), [{"key": key, "value": value} for key, value in known.items()])
            append_event(connection, now, "created", None, {"study": study_digest, "format": STORE_FORMAT})
    if known.get("format") != STORE_FORMAT:
        raise RefusedError(
            f"the database is of format {known.get('format')!r}, this program reads {STORE_FORMAT!r}"
        )
    if known["study"] != study_digest:
        raise RefusedError(
            f"the database holds the ratings of another study (digest {known['study'][:12]}.., this study "
            f"{study_digest[:12]}..); choose a new database for this study"
        )
    return bytes.fromhex(known["secret"])


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that sees one state of the database.

    Raises:
        StoreError: If the database cannot be read.
    """
    with _in_words(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine, *, set_up: bool = False) -> Iterator[Connection]:
    """Yield a connection that alone may write; what it wrote is on the disk when the block ends.

    Raises:
        StoreError: If the database is locked, full or away; nothing was written.
    """
    with _in_words(engine), engine.connect() as connection:
        connection.execution_options(medgen_writing=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                lock = "LOCK TABLE review_events IN EXCLUSIVE MODE"
                connection.execute(
                    text(f"SELECT pg_advisory_xact_lock({_LOCK_OF_SET_UP})" if set_up else lock)
                )
            yield connection


def append_event(
    connection: Connection,
    now: datetime,
    kind: EventKind,
    rater: int | None,
    content: Content,
    *,
    action: tuple[str, int] | None = None,
) -> None:
    """Add a step to the trail; only on a connection of `writing`."""
    last = connection.execute(
        select(events.c.seq, events.c.sha256).order_by(events.c.seq.desc()).limit(1)
    ).first()
    seq, previous = (1, NO_HASH) if last is None else (last.seq + 1, last.sha256)
    action_id, part = action or (None, None)
    step = chained(seq, previous, at=iso(now), kind=kind, content=content, rater=rater, action=action_id)
    row = {**step.model_dump(), "content": json.dumps(dict(content)), "part": part}
    connection.execute(insert(events).values(row))
    connection.execute(update(meta).where(meta.c.key == "head").values(value=step.sha256))


def read_events(
    connection: Connection, *, rater: int | None = None, action: str | None = None
) -> tuple[Event, ...]:
    """Return the trail in order: all of it, or the steps of one action of a rater.

    Raises:
        TrailError: If a row is no event any more.
    """
    query = select(events).order_by(events.c.seq)
    if action is not None:
        query = query.where(events.c.rater == rater, events.c.action == action)
    return tuple(_event(row) for row in connection.execute(query).mappings())


def _event(row: RowMapping) -> Event:
    try:
        content = json.loads(row["content"])
        return Event.model_validate({**{k: v for k, v in row.items() if k != "part"}, "content": content})
    except ValueError as error:
        said = str(error).split("\n")[0]
        raise TrailError(
            f"audit trail, row {row['seq']}: was changed after it was written ({said})"
        ) from error


def _parsed(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return _sqlite(Path(url))
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise RefusedError(f"{url!r} is no database URL: {error}") from error
    match parsed.drivername:
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return _sqlite(Path(parsed.database))
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise RefusedError(
                f"the database must be a file, sqlite:///FILE or postgresql://USER@HOST/DATABASE, got {other}://"
            )


def _sqlite(file: Path) -> URL:
    if not file.absolute().parent.is_dir():
        raise RefusedError(
            f"{file}: its folder does not exist; make it or choose another place for the ratings"
        )
    if file.is_dir():
        raise RefusedError(f"{file}: is a folder; give the name of a file for the ratings")
    return URL.create("sqlite", database=str(file.absolute()))


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: one that reads first and then wants to write could only be refused.
    immediate = connection.get_execution_options().get("medgen_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _in_words(engine: Engine) -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreError(
            "the database is busy: no connection became free; nothing was written, try again"
        ) from error
    except DBAPIError as error:
        raise _explained(engine, error) from error
    except SQLAlchemyError as error:
        raise StoreError(f"the database failed: {error}; nothing was written") from error


def _explained(engine: Engine, error: DBAPIError) -> StoreError:
    said = str(error.orig).strip().split("\n")[0]
    where = engine.url.render_as_string(hide_password=True)
    state = str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", ""))
    nothing = "nothing was written"
    if state.startswith("SQLITE_BUSY") or state == "55P03":
        return StoreError(f"{where}: locked by another program ({said}); {nothing}, try again")
    if state.startswith(("SQLITE_FULL", "SQLITE_IOERR")) or state == "53100":
        return StoreError(
            f"{where}: not written, most likely the disk is full ({said}); {nothing}, free space and try again"
        )
    if state.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(
            f"{where}: cannot be opened for writing ({said}); {nothing}: check the rights of its folder"
        )
    if state.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return RefusedError(
            f"{where}: is damaged or no database ({said}); restore it, or choose another file"
        )
    return StoreError(f"{where}: {said}; {nothing}")
