"""Why a training ends early: it was asked to, or its loss is no number any more."""

from collections.abc import Callable, Sequence
from pathlib import Path

StopRequest = Callable[[], bool]
_IDS_NAMED = 8


class TrainingInterrupted(RuntimeError):  # noqa: N818 - it is a request that was met, not a fault
    """A training stopped on request after writing a checkpoint."""

    def __init__(self, checkpoints_dir: Path, step: int) -> None:
        super().__init__(
            f"stopped after step {step}; {checkpoints_dir / f'checkpoint-{step}'} is complete, resume goes on"
        )
        self.step = step


class TrainingDivergedError(RuntimeError):
    """A loss was NaN or infinite; nothing was saved since."""

    def __init__(self, checkpoints_dir: Path, step: int, record_ids: Sequence[str]) -> None:
        saved = sorted(int(folder.name.rsplit("-", 1)[1]) for folder in checkpoints_dir.glob("checkpoint-*"))
        last = f"checkpoint-{saved[-1]} is from before it" if saved else "there is no checkpoint before it"
        named = ", ".join(record_ids[:_IDS_NAMED]) + (", ..." if len(record_ids) > _IDS_NAMED else "")
        super().__init__(
            f"the loss of step {step} is not finite (images {named}); {last} in {checkpoints_dir}; lower "
            "train.learning_rate, set train.max_grad_norm, or look at these images"
        )
        self.step = step
