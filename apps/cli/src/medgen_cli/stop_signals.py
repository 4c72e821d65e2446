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


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that locks are freed and run.json tells what happened."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise_at_once)


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
    raise Terminated if signal_number == signal.SIGTERM else KeyboardInterrupt
