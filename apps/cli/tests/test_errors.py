import errno

import pytest
from medgen_cli.errors import GateError, PartialError, Terminated, UsageError, describe
from medgen_data.problems import DataError


class MissingModelError(FileNotFoundError):
    """As in the packages that cannot be imported here without torch."""

    __module__ = "medgen_models.errors"


class UnusableModelError(ValueError):
    __module__ = "medgen_models.errors"


class AdapterError(ValueError):
    __module__ = "medgen_models.adapters.errors"


class TrainingDivergedError(RuntimeError):
    __module__ = "medgen_training.interruption"


class TooLittleMemoryError(ValueError):
    __module__ = "medgen_models.memory_fit"


class OutOfMemoryError(RuntimeError):
    __module__ = "torch"


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (RuntimeError("?"), 1),
        (UsageError("wrong key"), 2),
        (DataError("bad row"), 3),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.png"), 3),
        (PartialError("2 rows"), 4),
        (AdapterError("another rank"), 2),
        (MissingModelError("no model"), 5),
        (UnusableModelError("another family"), 5),
        (TooLittleMemoryError("1 GiB"), 6),
        (MemoryError(), 6),
        (OutOfMemoryError("CUDA"), 6),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 6),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 6),
        (OSError(errno.EIO, "Input/output error"), 6),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2),
        (GateError("frechet is 70"), 7),
        (TrainingDivergedError("step 3"), 8),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: BaseException, exit_code: int) -> None:
    assert describe(error).exit_code == exit_code


def test_disk_full_names_the_file_and_what_to_do() -> None:
    message = describe(OSError(errno.ENOSPC, "No space left on device", "images/a.png")).message
    assert (
        message
        == "disk full: images/a.png\nfree some space and run the same command again: finished work is kept"
    )


def test_error_of_another_library_with_our_name_is_a_defect() -> None:
    class DataError(ValueError):
        __module__ = "pandas.errors"

    assert describe(DataError("x")).exit_code == 1


def test_defect_is_told_with_the_note_that_names_the_crash_file() -> None:
    error = KeyError("x")
    error.add_note("the traceback is in run/crash.txt")
    failure = describe(error)
    assert not failure.expected
    assert failure.message.splitlines() == ["unexpected KeyError: 'x'", "the traceback is in run/crash.txt"]


def test_defect_without_a_run_folder_points_to_debug() -> None:
    assert "--debug" in describe(KeyError("x")).message


def test_names_of_errors_are_those_of_the_packages() -> None:
    from medgen_models.adapters.errors import AdapterError as RealAdapterError
    from medgen_models.errors import UnusableModelError as RealUnusableModelError
    from medgen_models.memory_fit import TooLittleMemoryError as RealTooLittleMemoryError
    from medgen_training import TrainingDivergedError as RealTrainingDivergedError

    pairs = (
        (AdapterError, RealAdapterError),
        (UnusableModelError, RealUnusableModelError),
        (TooLittleMemoryError, RealTooLittleMemoryError),
        (TrainingDivergedError, RealTrainingDivergedError),
    )
    for ours, real in pairs:
        assert (ours.__name__, ours.__module__) == (real.__name__, real.__module__)
        assert issubclass(real, ours.__mro__[1])
