"""Write files so that a reader, a kill or a full disk never meets half a file."""

import os
import secrets
from pathlib import Path

from medgen_review.study import StudyError


def write_bytes(file: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: temporary name, flush, rename, flush of the folder; folders are made.

    Args:
        file: Target.
        content: The whole new content.
        durable: Flush to the disk before returning. False is safe against a kill, not against a power cut: for
            many small files that can be made again.

    Raises:
        StudyError: If it cannot be written; what was there before is unchanged.
    """
    partial = file.with_name(f".{file.name[:100]}.{secrets.token_hex(6)}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as stream:
                stream.write(content)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if durable and os.name == "posix":  # Windows cannot open a folder; its rename is durable without this
            descriptor = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be written ({error.strerror}); free space or choose another place and run the same "
            "command again. What was there before is unchanged"
        ) from error


def write_text(file: Path, text: str) -> None:
    """Replace a UTF-8 text file as a whole; see `write_bytes`."""
    write_bytes(file, text.encode("utf-8"))
