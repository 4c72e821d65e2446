"""Answers of models, kept by content, and a ledger of what was asked for money: one SQLite file.

An answer is committed before anything is done with it, so a kill at any moment loses none. A paid request is
entered in the ledger before it leaves and crossed off in the transaction that stores its answer. What is still
open after a kill was in flight: it may have been answered and charged, and is the only kind of request that a
later run may send a second time.

Several processes of one machine may share a file (write-ahead log); a network file system cannot hold one.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medgen_data.problems import DataError

_VERSION = 1
_SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, writer TEXT NOT NULL, image_sha256 TEXT NOT NULL,
    prompt TEXT NOT NULL, seed INTEGER NOT NULL, created TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, writer TEXT NOT NULL, started TEXT NOT NULL, outcome TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX ledger_by_writer ON ledger (writer, outcome);
CREATE TABLE file_hashes (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Answer:
    """A stored answer and where it came from."""

    key: str
    text: str
    writer: str
    image_sha256: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Usage:
    """Tokens that a server counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Spending:
    """What the ledger says about one writer.

    Attributes:
        num_requests: Requests that left, whatever became of them.
        num_open: Of these, requests without an outcome: in flight now, or when a run was killed.
        largest_prompt: Most tokens that one prompt came to; 0: not known yet.
    """

    num_requests: int
    num_open: int
    prompt_tokens: int
    completion_tokens: int
    largest_prompt: int = 0


class CaptionCache:
    """An open cache file. Safe to share between threads."""

    def __init__(self, file: Path) -> None:
        """Open a cache, or make one.

        Raises:
            DataError: If the file is no cache of this version or is damaged.
        """
        self.file = file
        self._lock = threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(
            file, timeout=60, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            # What was paid for outlives a power cut too.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise DataError(
                f"{file} is no caption cache ({error}); choose another file, or move this one away"
            ) from error

    def __enter__(self) -> "CaptionCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is in it stays."""
        with self._lock:
            self._connection.close()

    def text(self, key: str) -> str | None:
        """Return the text stored under a key, None if there is none."""
        with self._lock:
            row = self._connection.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def store(self, *answers: Answer) -> None:
        """Store answers that cost nothing. An answer that is there already stays as it is."""
        with self._transaction() as connection:
            _insert(connection, answers)

    def begin_request(self, key: str, writer: str, allow: Callable[[Spending], None] | None = None) -> int:
        """Enter a paid request before it leaves, and return its number in the ledger.

        Args:
            key: Of the answer.
            writer: Who is asked.
            allow: Called with what was spent so far by all processes, none of which can enter a request
                meanwhile; raises to refuse this one.
        """
        with self._transaction() as connection:
            if allow is not None:
                allow(_spending(connection, writer))
            cursor = connection.execute(
                "INSERT INTO ledger (key, writer, started) VALUES (?, ?, ?)", (key, writer, _now())
            )
            return int(cursor.lastrowid or 0)

    def end_request(
        self, request: int, outcome: str, usage: Usage = Usage(), answer: Answer | None = None
    ) -> None:
        """Cross a paid request off, and store its answer in the same transaction."""
        with self._transaction() as connection:
            if answer is not None:
                _insert(connection, [answer])
            connection.execute(
                "UPDATE ledger SET outcome = ?, prompt_tokens = ?, completion_tokens = ? WHERE id = ?",
                (outcome, usage.prompt_tokens, usage.completion_tokens, request),
            )

    def spending(self, writer: str) -> Spending:
        """Return what was ever asked of a writer through this cache."""
        with self._lock:
            return _spending(self._connection, writer)

    def open_requests(self) -> list[str]:
        """Return the keys of requests without an outcome, the oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT key FROM ledger WHERE outcome IS NULL ORDER BY id")
            return [str(row[0]) for row in rows]

    def keys(self) -> set[str]:
        """Return the keys of all stored answers."""
        with self._lock:
            return {str(row[0]) for row in self._connection.execute("SELECT key FROM answers")}

    def num_answers(self) -> int:
        """Return the number of stored answers."""
        with self._lock:
            return int(self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def merge(self, other: Path) -> int:
        """Take over the answers of another cache, e.g. of another machine; return how many were new."""
        with CaptionCache(other):  # refuses what is no cache
            pass
        before = self.num_answers()
        with self._lock:
            self._connection.execute("ATTACH DATABASE ? AS other", (str(other),))
            try:
                self._connection.execute("INSERT OR IGNORE INTO answers SELECT * FROM other.answers")
            finally:
                self._connection.execute("DETACH DATABASE other")
        return self.num_answers() - before

    def known_file_hash(self, path: str, size: int, mtime_ns: int) -> str | None:
        """Return the hash noted for a file of this size and time, None if there is none."""
        with self._lock:
            row = self._connection.execute(
                "SELECT sha256 FROM file_hashes WHERE path = ? AND size = ? AND mtime_ns = ?",
                (path, size, mtime_ns),
            ).fetchone()
        return None if row is None else str(row[0])

    def note_file_hash(self, path: str, size: int, mtime_ns: int, sha256: str) -> None:
        """Note the hash of a large file, to read it once only."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO file_hashes VALUES (?, ?, ?, ?)", (path, size, mtime_ns, sha256)
            )

    def _prepare(self) -> None:
        with self._transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError("another program's tables are in it")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"expected version {_VERSION}, got {version}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _spending(connection: sqlite3.Connection, writer: str) -> Spending:
    row = connection.execute(
        "SELECT COUNT(*), COUNT(*) - COUNT(outcome), COALESCE(SUM(prompt_tokens), 0), "
        "COALESCE(SUM(completion_tokens), 0), COALESCE(MAX(prompt_tokens), 0) FROM ledger WHERE writer = ?",
        (writer,),
    ).fetchone()
    return Spending(*row)


def _insert(connection: sqlite3.Connection, answers: tuple[Answer, ...] | list[Answer]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(a.key, a.text, a.writer, a.image_sha256, a.prompt, a.seed, _now()) for a in answers],
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
