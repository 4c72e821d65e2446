"""SIGINT and SIGTERM: at once, or after the running step where a step ends with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medgen_cli.errors import Terminated
from medgen_cli.output import print_note

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal asked for an end."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def is_requested(self) -> bool:
        """Return whether to stop after this step."""
        return self.signal_number is not None

    def as_error(self) -> BaseException:
        """Return what the signal would have raised at once."""
        return Terminated() if self.signal_number == signal.SIGTERM else KeyboardInterrupt()


_raised = StopRequest()  # signals belong to the process, and so does what they raised in this command


def raise_on_signals() -> None:
    """Let SIGINT and SIGTERM unwind the stack, so that locks are freed and run.json tells what happened.

    A SIGINT that is ignored, as a shell has it for its background jobs, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    signal.signal(signal.SIGTERM, _raise_at_once)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise_at_once)


def forget_signals() -> None:
    """Begin a command: what a signal raised in an earlier one is over."""
    _raised.signal_number = None


def raise_if_signalled() -> None:
    """Raise again what a signal raised already: whoever calls this is work that should have ended.

    Libraries swallow exceptions of every kind in places, numpy's `Generator.choice` among them, and a Ctrl-C
    that falls there would be lost.
    """
    if _raised.is_requested():
        raise _raised.as_error()


@contextmanager
def stop_after_step() -> Iterator[StopRequest]:
    """Turn the first signal into a request and let the second one stop at once."""
    request = StopRequest()

    def remember(signal_number: int, frame: FrameType | None) -> None:
        if request.is_requested():
            _raise_at_once(signal_number, frame)
        request.signal_number = signal_number
        print_note("stopping after this step, with a checkpoint; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, remember) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_at_once(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    _raised.signal_number = signal_number
    raise _raised.as_error()
