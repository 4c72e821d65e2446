"""The working file of a run: whole rows of one revision and seed, appended one write each.

A kill at any moment leaves whole lines and at most one torn end, which the next run cuts off.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from medgen_data.captions import CaptionRow


class Journal:
    """A working file; rows of another revision or seed are thrown away, unless it is only looked at."""

    def __init__(self, file: Path, revision: str, seed: int, *, reads_only: bool = False) -> None:
        self._file = file
        self._descriptor = -1
        self.rows: dict[str, CaptionRow] = {}
        whole = 0
        for end, line in _whole_lines(file):
            row = CaptionRow.model_validate_json(line)
            if (row.revision, row.seed) != (revision, seed):
                self.rows, whole = {}, 0
                break
            self.rows[row.record_id] = row
            whole = end
        if file.exists() and not reads_only:
            os.truncate(file, whole)

    def __enter__(self) -> "Journal":
        self._file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._file, flags, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, row: CaptionRow) -> None:
        """Add one row. A kill cannot undo it; only a power cut can, and then the row is made again."""
        rest = memoryview((row.model_dump_json() + "\n").encode())
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def remove(self) -> None:
        """Delete the working file: its rows are in the finished captions."""
        self._file.unlink(missing_ok=True)


def _whole_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that was written to its end, and where it ends."""
    content = file.read_bytes() if file.exists() else b""
    start = 0
    while (end := content.find(b"\n", start) + 1) > 0:
        yield end, content[start:end]
        start = end
