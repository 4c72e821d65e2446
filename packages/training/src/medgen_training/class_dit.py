"""Train a class-conditional DiT from images whose texts name a class: cache, denoiser, model folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from medgen_data import ImageDataset
from medgen_models import save_model
from medgen_models.class_dit.presets import DIT_PRESETS, DitPresetName
from medgen_models.families.dit import load_autoencoder, new_dit
from pydantic import BaseModel, ConfigDict, Field

from medgen_training.cache import load_pixels
from medgen_training.claims import claim_folder, training_identity
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.denoiser.stage import run_denoiser_stage
from medgen_training.interruption import StopRequest
from medgen_training.train_log import OnEvent
from medgen_training.training_rows import TextVariants, training_rows


class DitTrainConfig(BaseModel):
    """Everything that decides what a class-conditional DiT becomes, apart from the data and the seed.

    Attributes:
        autoencoder: Frozen Stable Diffusion autoencoder: hub name, folder, or the folder of a pipeline with one.
        classes: Class names that occur in the texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["dit"]
    preset: DitPresetName = "dit-s-8"
    autoencoder: str
    classes: tuple[str, ...] = Field(min_length=1)
    mixed_precision: Literal["no", "bf16"] = "no"
    denoiser: DenoiserConfig = Field(
        default_factory=lambda: DenoiserConfig(learning_rate=1e-4, lr_schedule="constant", ema_decay=0.9999)
    )


def train_class_dit(
    config: DitTrainConfig,
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
    """Train a DiT and return its model folder, `train_dir / "model"`; arguments as in `train_msdm`.

    Raises:
        CheckpointError: If `train_dir` holds another training, or any training without `resume`.
        MissingModelError: If the autoencoder is not to be had.
        ValueError: If a text names no class, or several.
    """
    model_dir = train_dir / "model"
    shape = DIT_PRESETS[config.preset]
    rows = training_rows(dataset, load_pixels(dataset, shape.image_size), texts, variants)
    identity = training_identity(config, rows.images, rows.prompts, seed=seed)
    claim_folder(train_dir, identity, resume=resume)
    if model_dir.is_dir():
        return model_dir

    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=device == "cpu")
    model = new_dit(shape, load_autoencoder(config.autoencoder), config.classes, seed=seed)
    for module in model.components().values():
        module.to(accelerator.device)
    run_denoiser_stage(
        model,
        rows,
        config.denoiser,
        train_dir,
        identity=identity,
        seed=seed,
        accelerator=accelerator,
        validation_set=validation_set,
        texts=texts,
        on_event=on_event,
        should_stop=should_stop,
    )
    if accelerator.is_main_process:
        save_model(model, model_dir)
    accelerator.wait_for_everyone()
    return model_dir
