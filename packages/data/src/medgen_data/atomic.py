"""Write files so that a reader, a kill or a full disk never meets half a file.

Temporary name in the same folder, flush to the disk, rename, flush the folder.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medgen_data.problems import DataError

TEMPORARY_SUFFIX = ".partial"
_NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])


class DiskFullError(DataError, OSError):
    """There was no room to write a file; the previous file, if any, is unchanged."""


def write_bytes_atomic(file: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole; missing parent folders are made.

    Args:
        file: Target.
        content: The whole new content.
        durable: Flush to the disk before returning. False is safe against a kill but not against a
            power cut: for many small files that are flushed together later by `flush_files`.

    Raises:
        DiskFullError: If the disk, the quota or the file size limit is exhausted. The old file is
            intact and no temporary file remains.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name[:100]}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        _write_new(partial, content, durable=durable)
        partial.replace(file)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise _disk_full(file, len(content), error) from error
        raise
    if durable:
        _flush_folder(file.parent)


def write_text_atomic(file: Path, text: str) -> None:
    """Replace a UTF-8 text file as a whole; see `write_bytes_atomic`."""
    write_bytes_atomic(file, text.encode("utf-8"))


def write_json_atomic(file: Path, value: object) -> None:
    """Replace a JSON file as a whole, indented; see `write_bytes_atomic`.

    Raises:
        ValueError: If a number is NaN or infinite: JSON has no such number.
    """
    write_text_atomic(file, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl_atomic(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Replace a JSON Lines file as a whole, one object per row; see `write_bytes_atomic`.

    Raises:
        ValueError: If a number is NaN or infinite: JSON has no such number.
    """
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_text_atomic(file, "".join(lines))


def flush_files(files: Iterable[Path]) -> None:
    """Flush files that were written with `durable=False`, and their folders, to the disk.

    Raises:
        DiskFullError: If the disk or the quota is exhausted.
    """
    files = tuple(files)
    # Several at a time: a journalling disk then commits them together, some thirty times faster.
    with ThreadPoolExecutor(max_workers=8) as executor:
        for _ in executor.map(_flush_file, files):
            pass
    for folder in {file.parent for file in files}:
        _flush_folder(folder)


def _write_new(partial: Path, content: bytes, *, durable: bool) -> None:
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:  # a write may be partial, and is just before a disk is full
            rest = rest[os.write(descriptor, rest) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_file(file: Path) -> None:
    try:
        # Windows flushes only what is open for writing.
        _flush(file, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _disk_full(file, file.stat().st_size, error) from error
        raise


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    # Windows cannot open a folder; its rename is durable without this.
    if os.name == "posix":
        _flush(folder, os.O_RDONLY)


def _disk_full(file: Path, num_bytes: int, error: OSError) -> DiskFullError:
    full = DiskFullError(
        f"{file}: no room to write {num_bytes} bytes ({os.strerror(error.errno or 0)}); free space or "
        "choose another disk and run the same command again. What was there before is unchanged"
    )
    full.errno = error.errno
    return full
