"""Training: a data set and its texts become a model folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

from medgen_cli.errors import UsageError
from medgen_cli.progress import ProgressLine
from medgen_cli.run_folder import lock_folder
from medgen_cli.stop_signals import stop_after_step

if TYPE_CHECKING:
    from medgen_training import MsdmTrainConfig, TrainEvent

_CLAIM_NAME = "training.json"


def train_model(
    dataset: ImageDataset,
    texts: Mapping[str, tuple[str, ...]],
    config: "MsdmTrainConfig",
    train_dir: Path,
    *,
    seed: int,
    device: str,
    resume: bool,
    progress: ProgressLine | None = None,
) -> Path:
    """Train a generator on the training split and return its model folder.

    The first SIGINT or SIGTERM lets the step end and a checkpoint be written; the second stops at once.

    Args:
        dataset: The data set; its validation split, if any, may choose the best weights.
        texts: All texts of every record.
        config: Model and training.
        train_dir: Where checkpoints, log and model go.
        seed: Seed of weights, order and noise.
        device: Where to train.
        resume: Continue what the folder holds.
        progress: Told about every event.

    Raises:
        CheckpointError: If the folder holds another training, or any without `resume`.
        UsageError: If another process trains into the same folder, or weights are to be selected on a
            validation split that is not there.
    """
    from medgen_training import TrainingInterrupted, train

    def on_event(event: "TrainEvent") -> None:
        if progress:
            figures = {"images/s": event.images_per_s, **event.figures}
            progress(event.step, event.num_steps, phase=event.stage, figures=figures)

    validation_set = _validation_records(dataset)
    if config.denoiser.selection == "validation-loss" and validation_set is None:
        raise UsageError(
            f"train.denoiser.selection: validation-loss needs a validation split, which {dataset.root} lacks; "
            "set data.validation_fraction, or use selection last"
        )
    train_dir.mkdir(parents=True, exist_ok=True)
    with lock_folder(train_dir, "train.lock"), stop_after_step() as stop:
        try:
            return train(
                config,
                training_records(dataset),
                texts,
                train_dir,
                seed=seed,
                device=device,
                resume=resume,
                validation_set=validation_set,
                on_event=on_event,
                should_stop=stop.is_requested,
            )
        except TrainingInterrupted as error:
            raise stop.as_error() from error


def training_records(dataset: ImageDataset) -> ImageDataset:
    """Return the training split, or everything if the data set has no splits."""
    if all(record.split is None for record in dataset.records):
        return dataset
    return dataset.select(split="train")


def require_earlier_training(train_dir: Path) -> None:
    """Refuse `--resume` where nothing was begun: a new training under a mistyped name would be worse.

    Raises:
        UsageError: If the folder holds no training.
    """
    if not (train_dir / _CLAIM_NAME).is_file():
        raise UsageError(f"{train_dir}: nothing to resume; leave --resume out to start")


def _validation_records(dataset: ImageDataset) -> ImageDataset | None:
    try:
        return dataset.select(split="validation")
    except DataError:
        return None
