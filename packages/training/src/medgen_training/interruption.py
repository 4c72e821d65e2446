"""A training that is asked to stop finishes its step, writes a checkpoint, and says so."""

from collections.abc import Callable
from pathlib import Path

StopRequest = Callable[[], bool]


class TrainingInterrupted(RuntimeError):  # noqa: N818 - it is a request that was met, not a fault
    """A training stopped on request after writing a checkpoint."""

    def __init__(self, checkpoints_dir: Path, step: int) -> None:
        super().__init__(
            f"stopped after step {step}; {checkpoints_dir / f'checkpoint-{step}'} is complete, resume goes on"
        )
        self.step = step
