"""Exit codes, and the one or two lines a user sees when something goes wrong.

Classes of the packages that import torch are recognised by name: a raised error proves that its module is
loaded, and the boundary must not load five seconds of torch to report a typing mistake.
"""

import errno
from dataclasses import dataclass

import typer

OK = 0
UNEXPECTED = 1
USAGE = 2
INPUT_DATA = 3
PARTIAL = 4
MISSING_MODEL = 5
RESOURCE = 6
GATE = 7
DIVERGED = 8
INTERRUPTED = 130
TERMINATED = 143

_MISSING_MODEL_ERRORS = (
    "MissingModelError",
    "MissingWeightsError",
    "MissingBackboneError",
    "UnusableModelError",
)
_INPUT_DATA_ERRORS = (
    "DataError",
    "ImageFileError",
    "FeatureFileError",
    "ScoreFileError",
    "StudyError",
    "UndefinedStatisticError",
    "RefusedError",  # what a rating store does not take; what it cannot do is a StoreError
)
_CODES_OF_OS_ERRORS = {
    errno.ENOSPC: RESOURCE,
    errno.EDQUOT: RESOURCE,
    errno.EIO: RESOURCE,
    errno.EMFILE: RESOURCE,
    errno.ENOMEM: RESOURCE,
    errno.EACCES: USAGE,
    errno.EPERM: USAGE,
    errno.EROFS: USAGE,
    errno.EISDIR: USAGE,
    errno.ENOTDIR: USAGE,
    errno.EEXIST: USAGE,
    errno.ENOENT: INPUT_DATA,
}
_HINTS_OF_OS_ERRORS = {
    errno.ENOSPC: "free some space and run the same command again: finished work is kept",
    errno.EDQUOT: "your quota is used up; free some and run the same command again: finished work is kept",
    errno.EACCES: "check the permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
}


class UsageError(ValueError):
    """The command line or a recipe is wrong (exit code 2)."""


class PartialError(RuntimeError):
    """The work is done, but some rows failed and are listed (exit code 4)."""


class GateError(RuntimeError):
    """A limit given with --fail-if was passed (exit code 7)."""


class Terminated(BaseException):
    """SIGTERM arrived; not an `Exception`, so that no handler on the way swallows it."""


@dataclass(frozen=True)
class Failure:
    """What the user is told about one error."""

    exit_code: int
    kind: str
    message: str
    expected: bool  # False: a defect, whose traceback is kept in the crash file


def describe(error: BaseException) -> Failure:
    """Turn any error into an exit code and a message of one or two lines."""
    kind = type(error).__name__
    if isinstance(error, OSError) and not _is_any(error, *_MISSING_MODEL_ERRORS):
        return _describe_os_error(error)
    code = _exit_code(error)
    if code == UNEXPECTED:
        return _defect(error)
    if code == RESOURCE and _is_any(error, "TooLittleMemoryError", "StoreError"):
        return Failure(code, kind, str(error), expected=True)
    if code == RESOURCE:
        notes = getattr(error, "__notes__", [])
        hint = (
            notes[-1]
            if notes
            else "lower the batch size or the image size, or use a machine with more memory"
        )
        return Failure(code, kind, f"out of memory: {_first_lines(str(error), 1)}\n{hint}", expected=True)
    if isinstance(error, typer.TyperException):
        return Failure(code, "UsageError", _usage_message(error), expected=True)
    return Failure(code, kind, _message(error, code), expected=True)


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"\nsee {context.command_path} --help" if context else ""
    return error.format_message() + hint


def _message(error: BaseException, code: int) -> str:
    if code == INTERRUPTED:
        return "interrupted; run the same command again to continue where it stopped"
    if code == TERMINATED:
        return "stopped by SIGTERM; run the same command again to continue where it stopped"
    return _first_lines(str(error), 12)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, Terminated):
        return TERMINATED
    if is_out_of_memory(error) or _is_any(error, "TooLittleMemoryError"):
        return RESOURCE
    if isinstance(error, GateError):
        return GATE
    if isinstance(error, PartialError):
        return PARTIAL
    if _is_any(error, *_MISSING_MODEL_ERRORS):
        return MISSING_MODEL
    if _is_any(error, "AddressError"):
        return USAGE
    if _is_any(error, *_INPUT_DATA_ERRORS):
        return INPUT_DATA
    if _is_any(error, "StoreError"):
        return RESOURCE
    if _is_any(error, "TrainingDivergedError"):
        return DIVERGED
    if isinstance(error, UsageError | typer.TyperException) or _is_any(
        error, "AdapterError", "CheckpointError", "CompilerError", "ValidationError"
    ):
        return USAGE
    return UNEXPECTED


def _is_any(error: BaseException, *names: str) -> bool:
    ours = [cls for cls in type(error).__mro__ if cls.__module__.startswith(("medgen_", "pydantic"))]
    return any(cls.__name__ in names for cls in ours)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory was too small, on the GPU or beside it."""
    if isinstance(error, MemoryError) or any(
        cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__
    ):
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _describe_os_error(error: OSError) -> Failure:
    code = _CODES_OF_OS_ERRORS.get(error.errno or 0, UNEXPECTED)
    if _is_any(error, "DataError"):
        # Already in our own words, with what to do.
        code = INPUT_DATA if code == UNEXPECTED else code
        return Failure(code, type(error).__name__, _first_lines(str(error), 12), expected=True)
    if code == UNEXPECTED:
        return _defect(error)
    where = f": {error.filename}" if error.filename else ""
    what = (
        "disk full"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else (error.strerror or "input/output error")
    )
    hint = _HINTS_OF_OS_ERRORS.get(error.errno or 0)
    return Failure(
        code, type(error).__name__, f"{what}{where}" + (f"\n{hint}" if hint else ""), expected=True
    )


def _defect(error: BaseException) -> Failure:
    kind = type(error).__name__
    lines = [f"unexpected {kind}: {_first_lines(str(error))}", *getattr(error, "__notes__", [])]
    if len(lines) == 1:
        lines.append("run the same command with --debug to see the traceback, and please report it")
    return Failure(UNEXPECTED, kind, "\n".join(lines), expected=False)


def _first_lines(text: str, num_lines: int = 2) -> str:
    return "\n".join(text.strip().splitlines()[:num_lines]) or "(no message)"
