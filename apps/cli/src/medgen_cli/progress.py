"""Progress on stderr: a bar on a terminal, one plain line every 30 s anywhere else."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from medgen_cli.stop_signals import raise_if_signalled

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_S = 30.0


class ProgressLine:
    """Progress of one stage: call it with (done, total) as often as you like, it decides when to write."""

    def __init__(
        self,
        title: str,
        *,
        interactive: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._clock = clock
        self._start = self._last_written = self._phase_start = clock()
        self._phase: str | None = None
        self._phase_done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if _is_terminal() if interactive is None else interactive:
            self._bar = _make_bar()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            raise_if_signalled()
            print(
                f"{self._title}: done in {_duration(self._clock() - self._start)}",
                file=sys.stderr,
                flush=True,
            )

    def __call__(
        self, done: int, total: int, *, phase: str = "", figures: Mapping[str, float] | None = None
    ) -> None:
        """Report that `done` of `total` items are finished; `figures` (such as the loss) are shown behind.

        Work that reports is work that goes on: a signal whose exception was lost on the way is raised here.
        """
        raise_if_signalled()
        now = self._clock()
        if phase != self._phase:
            # Items before the first report were there already (a resumed run) and say nothing about speed.
            self._phase, self._phase_start, self._phase_done = phase, now, done
            self._task = None
        text = _text(
            f"{self._title} {phase}".strip(),
            done,
            total,
            rate=(done - self._phase_done) / max(now - self._phase_start, 1e-9),
            figures=figures or {},
        )
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(text, total=total)
            self._bar.update(self._task, completed=done, description=text)
        elif now - self._last_written >= PLAIN_INTERVAL_S:
            self._last_written = now
            print(text, file=sys.stderr, flush=True)


def _text(title: str, done: int, total: int, *, rate: float, figures: Mapping[str, float]) -> str:
    parts = [f"{title}: {done}/{total}"]
    if rate > 0:
        parts += [f"{rate:.1f}/s", f"ETA {_duration((total - done) / rate)}"]
    parts += [f"{name} {value:.4g}" for name, value in figures.items()]
    return ", ".join(parts)


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _make_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
