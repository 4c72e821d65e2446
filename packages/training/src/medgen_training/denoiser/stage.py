"""The denoiser's stage of a training from scratch: cache, first batch, held-out batch, training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from medgen_data import ImageDataset

from medgen_training.denoiser.batches import build_source, validation_batch, write_first_batch
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.denoiser.trainer import TrainableModel, train_denoiser
from medgen_training.interruption import StopRequest
from medgen_training.train_log import OnEvent
from medgen_training.training_rows import TrainingRows


def run_denoiser_stage(
    model: TrainableModel,
    rows: TrainingRows,
    config: DenoiserConfig,
    train_dir: Path,
    *,
    identity: Mapping[str, Any],
    seed: int,
    accelerator: Accelerator,
    validation_set: ImageDataset | None,
    texts: Mapping[str, Sequence[str]],
    on_event: OnEvent | None = None,
    should_stop: StopRequest | None = None,
) -> None:
    """Fill the cache below `train_dir`, draw the first batch as a contact sheet, and train the denoiser in place.

    Args:
        model: Model whose other parts are trained already, on the device of `accelerator`.
        rows: Images and prompts to train on.
        config: The recipe's `train.denoiser` section.
        train_dir: Folder of this training alone.
        identity: What makes this training itself; a checkpoint of another is refused.
        seed: Seed of order, noise and dropout.
        accelerator: Device, precision and processes.
        validation_set: Held-out images, for `selection: validation-loss`.
        texts: Their texts, by record id.
        on_event: Called about every `log_every` steps.
        should_stop: Asked after every step; True writes a checkpoint and raises `TrainingInterrupted`.
    """
    images, prompts = rows.images, rows.prompts
    source = build_source(model, images, prompts, config, train_dir / "cache", seed=seed, on_event=on_event)
    write_first_batch(model, source, prompts, config, train_dir / "contact_sheet.png", seed=seed)
    validation = None
    if config.selection == "validation-loss":
        validation = validation_batch(model, validation_set, texts, seed=seed)
    train_denoiser(
        model,
        source,
        prompts,
        config,
        train_dir,
        identity=identity,
        seed=seed,
        accelerator=accelerator,
        validation=validation,
        on_event=on_event,
        should_stop=should_stop,
    )
