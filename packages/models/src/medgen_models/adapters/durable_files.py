"""Files and folders that are on the disk, not only in its cache, before they get their final name."""

import os
from pathlib import Path


def write_flushed(file: Path, content: bytes) -> None:
    """Write a file and flush it; missing parent folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder, so that a rename in it survives a power cut."""
    if os.name == "posix":  # Windows cannot open a folder; its rename is durable without this
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_replacing(file: Path, content: bytes) -> None:
    """Replace a file as a whole: written aside, flushed, renamed."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        write_flushed(partial, content)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(file.parent)
