"""Training: a data set and its texts become a model folder, or an adapter folder."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

from medgen_cli.errors import UsageError, is_out_of_memory
from medgen_cli.output import print_note
from medgen_cli.progress import ProgressLine
from medgen_cli.run_folder import lock_folder
from medgen_cli.stages.training_texts import TrainingTexts
from medgen_cli.stop_signals import stop_after_step

if TYPE_CHECKING:
    from medgen_training import TrainEvent

    from medgen_cli.recipes import AnyTrainConfig

_CLAIM_NAME = "training.json"
_SILENT = logging.NullHandler()


def train_model(
    dataset: ImageDataset,
    texts: TrainingTexts,
    config: "AnyTrainConfig",
    train_dir: Path,
    *,
    seed: int,
    device: str,
    resume: bool,
    progress: ProgressLine | None = None,
) -> Path:
    """Train a generator on the training split and return its model or adapter folder.

    The first SIGINT or SIGTERM lets the step end and a checkpoint be written; the second stops at once.
    Of several processes that were launched together, the first writes texts and reports; each has a lock.

    Args:
        dataset: The data set; its validation split, if any, may choose the best weights.
        texts: All texts of every record; written to `texts.jsonl` where there are more than its plain ones.
        config: Model and training.
        train_dir: Where checkpoints, log and model go.
        seed: Seed of weights, order and noise.
        device: Where to train.
        resume: Continue what the folder holds.
        progress: Told about every event.

    Raises:
        CheckpointError: If the folder holds another training, or any without `resume`.
        AdapterError: If the adapter's targets do not fit the base model.
        MissingModelError: If pretrained weights are not to be had.
        TrainingDivergedError: If a loss was not finite.
        UnusableModelError: If the base model is of another family, or its weights are pickled.
        UsageError: If another process trains into the same folder, weights are to be selected on a validation
            split that is not there, or a text names no class of a class-conditional model.
    """
    from medgen_training import TrainingInterrupted, train

    # What it would warn of comes as an event too, and is printed here.
    logging.getLogger("medgen_training.adapter.run").addHandler(_SILENT)

    def on_event(event: "TrainEvent") -> None:
        if event.stage == "prompts":
            print_note(_long_prompts_note(event))
        elif progress:
            figures = {"images/s": event.images_per_s, **event.figures}
            progress(event.step, event.num_steps, phase=event.stage, figures=figures)

    validation_set = _validation_records(dataset)
    _check_selection(config, dataset, validation_set)
    records = training_records(dataset)
    _check_classes(config, records, texts)
    variants = texts.variants()
    train_dir.mkdir(parents=True, exist_ok=True)
    rank = launched_rank()
    lock_name = f"train-{rank}.lock" if rank else "train.lock"
    with lock_folder(train_dir, lock_name), stop_after_step() as stop:
        if variants is not None and rank == 0:
            texts.write(train_dir, records)
        try:
            return train(
                config,
                records,
                texts.texts,
                train_dir,
                seed=seed,
                device=device,
                resume=resume,
                validation_set=validation_set,
                variants=variants,
                on_event=None if rank else on_event,
                should_stop=stop.is_requested,
            )
        except TrainingInterrupted as error:
            raise stop.as_error() from error
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                error.add_note(_memory_advice(config))
            raise


def launched_rank() -> int:
    """Return the number that `accelerate launch` or `torchrun` gave this process; 0 without them."""
    return int(os.environ.get("RANK", "0"))


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


def _check_selection(
    config: "AnyTrainConfig", dataset: ImageDataset, validation_set: ImageDataset | None
) -> None:
    from medgen_training import AdapterTrainConfig

    if isinstance(config, AdapterTrainConfig):
        selection, field = config.selection, "train"
    else:
        selection, field = config.denoiser.selection, "train.denoiser"
    if selection == "validation-loss" and validation_set is None:
        raise UsageError(
            f"{field}.selection: validation-loss needs a validation split, which {dataset.root} lacks; "
            "set data.validation_fraction, or use selection last"
        )


def _check_classes(config: "AnyTrainConfig", records: ImageDataset, texts: TrainingTexts) -> None:
    """Refuse texts that name no class before anything is decoded."""
    from medgen_models.class_dit import ClassNames
    from medgen_training import DitTrainConfig

    if not isinstance(config, DitTrainConfig):
        return
    names = ClassNames(config.classes)
    for record in records.records:
        record_id = record.record_id
        for text in (*texts.texts[record_id], *texts.paraphrases.get(record_id, ())):
            try:
                names.class_of(text)
            except ValueError as error:
                raise UsageError(f"train.classes: record {record.record_id}: {error}") from error


def _long_prompts_note(event: "TrainEvent") -> str:
    return (
        f"prompts: {event.figures['too_long']:.0f} of {event.num_steps} are longer than the text encoder reads, "
        f"the longest has {event.figures['longest']:.0f} tokens; what is beyond is cut. Shorten them, or raise "
        "train.max_tokens"
    )


def _memory_advice(config: "AnyTrainConfig") -> str:
    from medgen_training import AdapterTrainConfig

    if isinstance(config, AdapterTrainConfig):
        return (
            "lower train.batch_size (and raise train.accumulation), set train.gradient_checkpointing true, "
            "train.base_dtype bfloat16, or a smaller train.image_size; `medgen train RECIPE --dry-run --fit 24GB` "
            "says what fits a device"
        )
    return "lower train.denoiser.batch_size (and train.autoencoder.batch_size), or take a smaller preset"


def _validation_records(dataset: ImageDataset) -> ImageDataset | None:
    try:
        return dataset.select(split="validation")
    except DataError:
        return None
