"""Exit codes, and the one line a user sees when something goes wrong.

Classes of modules that import torch are recognised by name: an error that was raised proves that its module is
loaded, and a typing mistake must not cost seconds of import.
"""

import errno
from types import TracebackType

OK = 0
UNEXPECTED = 1
USAGE = 2
INPUT_DATA = 3
PARTIAL = 4
MISSING_WEIGHTS = 5
RESOURCE = 6
LIMIT_EXCEEDED = 7
INTERRUPTED = 130

EXIT_CODES_TEXT = """exit codes:
  0    done
  1    a defect; --debug shows the traceback
  2    the command line is wrong, or a file cannot be written
  3    the images or tables cannot be used: missing, damaged, too few, or not comparable
  4    done, but something could not be computed; the result says what and why
  5    the weights of an extractor are not on this machine
  6    out of memory or of disk
  7    audit: more copies than --max-copy-rate allows
  130  interrupted; features computed so far are kept, run the same command again"""

_RESOURCE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.EMFILE}
_PLACE_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}


class UsageError(ValueError):
    """The command line is wrong."""


class UsageErrors:
    """Settings that a config refuses are errors of the command line."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError):
            raise UsageError(str(error)) from error


def describe(error: BaseException) -> tuple[int, str]:
    """Return exit code and message of an error."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; run the same command again, features computed so far are kept"
    if isinstance(error, UsageError):
        return USAGE, text
    if "MissingWeightsError" in kinds:
        return MISSING_WEIGHTS, text
    # torch's CPU allocator raises a plain RuntimeError.
    no_memory = isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
    if isinstance(error, MemoryError) or no_memory:
        return RESOURCE, f"out of memory: {text}; lower --batch-size"
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRORS:
        return RESOURCE, f"{error.strerror}: {error.filename}; features computed so far are kept"
    if isinstance(error, OSError) and error.errno in _PLACE_ERRORS:
        return USAGE, f"{error.strerror}: {error.filename}"
    if isinstance(error, ImportError):
        return MISSING_WEIGHTS, text
    # What a package here refuses, it refuses with a ValueError in its own words: sets too small, damaged files.
    if isinstance(error, ValueError | FileNotFoundError):
        return INPUT_DATA, text
    return (
        UNEXPECTED,
        f"unexpected {type(error).__name__}: {text}; --debug shows the traceback, please report it",
    )
