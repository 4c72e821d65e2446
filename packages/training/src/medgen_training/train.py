"""One call for every family: the `train` section of a recipe and what it starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from medgen_data import ImageDataset
from pydantic import Field

from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.adapter.run import train_adapter
from medgen_training.class_dit import DitTrainConfig, train_class_dit
from medgen_training.interruption import StopRequest
from medgen_training.msdm import MsdmTrainConfig, train_msdm
from medgen_training.train_log import OnEvent
from medgen_training.training_rows import TextVariants

TrainConfig = Annotated[MsdmTrainConfig | DitTrainConfig | AdapterTrainConfig, Field(discriminator="family")]


def train(
    config: MsdmTrainConfig | DitTrainConfig | AdapterTrainConfig,
    dataset: ImageDataset,
    texts: Mapping[str, Sequence[str]],
    train_dir: Path,
    *,
    seed: int,
    device: str = "cpu",
    resume: bool = False,
    validation_set: ImageDataset | None = None,
    variants: TextVariants | None = None,
    on_event: OnEvent | None = None,
    should_stop: StopRequest | None = None,
) -> Path:
    """Train a generator and return its folder: `train_dir / "model"`, or `train_dir / "adapter"` of a LoRA family.

    Killed at any moment, the same call with `resume` gives the same weights, bit for bit on one CPU.

    Args:
        config: The recipe's `train` section.
        dataset: Images to train on.
        texts: All texts of each record, by record id; one of them is drawn at every step.
        train_dir: Folder of this training alone.
        seed: Seed of weights, order, noise and dropout.
        device: `cpu` or `cuda`.
        resume: Go on with what `train_dir` holds.
        validation_set: Held-out images, for `selection: validation-loss`.
        variants: Paraphrases, and what is said of mirrored images; None: neither.
        on_event: Called about every `log_every` steps.
        should_stop: Asked after every step; True writes a checkpoint and raises `TrainingInterrupted`.

    Raises:
        CheckpointError: If `train_dir` holds another training, or any training without `resume`.
        MissingModelError: If pretrained weights are not to be had.
        TrainingDivergedError: If a loss became NaN or infinite.
    """
    if isinstance(config, AdapterTrainConfig):
        return train_adapter(
            config,
            dataset,
            texts,
            train_dir,
            seed=seed,
            device=device,
            resume=resume,
            validation_set=validation_set,
            variants=variants,
            on_event=on_event,
            should_stop=should_stop,
        )
    start = train_msdm if isinstance(config, MsdmTrainConfig) else train_class_dit
    return start(
        config,  # type: ignore[arg-type]
        dataset,
        texts,
        train_dir,
        seed=seed,
        device=device,
        resume=resume,
        validation_set=validation_set,
        variants=variants,
        on_event=on_event,
        should_stop=should_stop,
    )
