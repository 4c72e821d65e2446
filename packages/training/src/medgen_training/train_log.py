"""What a training says while it runs: `train_log.jsonl`, TensorBoard, and events for a progress display."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medgen_data.atomic import write_text_atomic
from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class TrainEvent:
    """One look at a running stage."""

    stage: str  # autoencoder, cache or denoiser
    step: int
    num_steps: int
    images_per_s: float
    figures: dict[str, float]  # e.g. loss, grad_norm, lr


OnEvent = Callable[[TrainEvent], None]


class TrainLog:
    """Writes the rows of one stage; rows past the step of a resumed checkpoint are taken back first."""

    def __init__(
        self, train_dir: Path, stage: str, num_steps: int, *, first_step: int, on_event: OnEvent | None
    ) -> None:
        self.stage = stage
        self.num_steps = num_steps
        self.on_event = on_event
        self.log_file = train_dir / "train_log.jsonl"
        self.writer = SummaryWriter(str(train_dir / "tensorboard" / stage), purge_step=first_step + 1)
        self.clock = time.monotonic()
        self.images_since = 0
        drop_rows_after(self.log_file, stage, first_step)

    def saw_images(self, num_images: int) -> None:
        """Count images for the rate."""
        self.images_since += num_images

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Write one row after optimiser step `step` (from 1)."""
        now = time.monotonic()
        images_per_s = self.images_since / max(now - self.clock, 1e-9)
        self.clock, self.images_since = now, 0
        row = {"stage": self.stage, "step": step, **figures, "images_per_s": round(images_per_s, 2)}
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        if self.on_event is not None:
            self.on_event(TrainEvent(self.stage, step, self.num_steps, images_per_s, figures))

    def close(self) -> None:
        """Flush TensorBoard."""
        self.writer.close()


def drop_rows_after(log_file: Path, stage: str, step: int) -> None:
    """Remove what a killed run wrote about steps that will be done again, and a row cut short by the kill."""
    if not log_file.exists():
        return
    lines = log_file.read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["stage"] != stage or row["step"] <= step:
            kept.append(line)
    if kept != lines:
        write_text_atomic(log_file, "".join(f"{line}\n" for line in kept))
