"""Train an MSDM from images and texts: autoencoder, cache, denoiser, model folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from medgen_data import ImageDataset
from medgen_models import (
    PRESETS,
    MsdmAutoencoder,
    MsdmModel,
    MsdmPreset,
    load_prompt_encoder,
    new_msdm,
    prompt_encoder_size,
    save_model,
)
from medgen_models.msdm.linear_start import has_linear_path, start_at_principal_components
from medgen_models.msdm.presets import MsdmPresetName
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medgen_training.autoencoder.config import AutoencoderConfig, Start
from medgen_training.autoencoder.trainer import train_autoencoder
from medgen_training.cache import load_pixels, to_pixel_values
from medgen_training.claims import claim_folder, training_identity
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.denoiser.stage import run_denoiser_stage
from medgen_training.interruption import StopRequest
from medgen_training.train_log import OnEvent
from medgen_training.training_rows import TextVariants, training_rows

PROMPTS_FOR_STATISTICS = 512  # thousands of tokens: more would not move a mean
IMAGES_FOR_COMPONENTS = 4096


class MsdmTrainConfig(BaseModel):
    """Everything that decides what an MSDM becomes, apart from the data and the seed.

    `text_encoder` is `minilm` (embedded), a local folder or a hub name such as
    `openai/clip-vit-large-patch14`.

    Attributes:
        self_conditioning: Whether the denoiser reads its own earlier estimate; None: as the preset.
        latent_channels: Of the autoencoder; None: as the preset.
        dropout: Probability of dropping a channel in the denoiser; None: as the preset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["msdm"] = "msdm"
    preset: MsdmPresetName = "msdm-tiny"
    text_encoder: str = "minilm"
    self_conditioning: bool | None = None
    latent_channels: int | None = Field(default=None, ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    mixed_precision: Literal["no", "bf16"] = "no"
    autoencoder: AutoencoderConfig = Field(default_factory=AutoencoderConfig)
    denoiser: DenoiserConfig = Field(default_factory=DenoiserConfig)

    @model_validator(mode="after")
    def _start_is_possible(self) -> "MsdmTrainConfig":
        if self.autoencoder.start == "principal-components":
            with torch.device("meta"):
                vae = self.shape.build_autoencoder()
            if not has_linear_path(vae):
                raise ValueError(
                    f"autoencoder.start: the autoencoder of {self.preset} cannot start at principal-components; "
                    "use auto or random"
                )
        return self

    @property
    def shape(self) -> MsdmPreset:
        """The preset with what the recipe changes in it."""
        changes: dict[str, Any] = {
            "self_conditioning": self.self_conditioning,
            "latent_channels": self.latent_channels,
            "dropout": self.dropout,
        }
        return replace(
            PRESETS[self.preset], **{name: value for name, value in changes.items() if value is not None}
        )


@dataclass(frozen=True)
class TrainPlan:
    """What a training will cost, before it starts."""

    num_trainable_parameters: int
    num_frozen_parameters: int
    num_steps: int
    cache_bytes: int
    model_bytes: int


def train_msdm(
    config: MsdmTrainConfig,
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
    """Train an MSDM and return its model folder, `train_dir / "model"`.

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
        MissingModelError: If the text encoder is not to be had.
    """
    model_dir = train_dir / "model"
    shape = config.shape
    rows = training_rows(dataset, load_pixels(dataset, shape.image_size), texts, variants)
    images, prompts = rows.images, rows.prompts
    identity = training_identity(config, images, prompts, seed=seed)
    claim_folder(train_dir, identity, resume=resume)
    if model_dir.is_dir():
        return model_dir

    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=device == "cpu")
    encoder = load_prompt_encoder(config.text_encoder, max_tokens=shape.max_tokens)
    model = new_msdm(shape, encoder, seed=seed)
    encoder.text_model.to(accelerator.device)
    # Channels last: a fifth faster on a CPU, and what GPUs like too.
    for module in (model.vae, model.denoiser):
        module.to(accelerator.device, memory_format=torch.channels_last)
    _start_autoencoder(model.vae, images, config.autoencoder.start, seed=seed)
    train_autoencoder(
        model.vae,
        images,
        config.autoencoder,
        train_dir,
        identity=identity,
        seed=seed,
        accelerator=accelerator,
        on_event=on_event,
        should_stop=should_stop,
    )
    fit_latent_statistics(model, images)
    if shape.standardise_prompts:
        some = model.encode_prompts(prompts.prompts[:PROMPTS_FOR_STATISTICS])
        model.denoiser.fit_prompt_statistics(some.prompt_embeds, some.prompt_mask)
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
        for module in (model.vae, model.denoiser):
            module.to(memory_format=torch.contiguous_format)
        save_model(model, model_dir)
    accelerator.wait_for_everyone()
    return model_dir


def plan_training(config: MsdmTrainConfig, num_images: int) -> TrainPlan:
    """Count parameters, steps and bytes on the meta device; no weights are made or read.

    Raises:
        MissingModelError: If the text encoder is unknown and its config is not on this machine.
    """
    shape = config.shape
    encoder = prompt_encoder_size(config.text_encoder)
    with torch.device("meta"):
        vae = shape.build_autoencoder()
        unet = shape.build_unet(encoder.width)
    trainable = vae.num_parameters() + unet.num_parameters()
    moments_bytes = 2 * 4 * shape.latent_channels * shape.latent_size**2
    return TrainPlan(
        num_trainable_parameters=trainable,
        num_frozen_parameters=encoder.num_parameters,
        num_steps=config.autoencoder.num_steps + config.denoiser.num_steps,
        cache_bytes=moments_bytes * num_images * config.denoiser.num_variants if config.denoiser.cache else 0,
        model_bytes=4 * (trainable + encoder.num_parameters),
    )


@torch.no_grad()
def _start_autoencoder(vae: MsdmAutoencoder, images: Tensor, start: Start, *, seed: int) -> None:
    """Set the first weights of the autoencoder from images [N, 3, S, S] uint8 where `start` asks for it."""
    if start == "principal-components" or (start == "auto" and has_linear_path(vae)):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(images), generator=generator)[:IMAGES_FOR_COMPONENTS]
        start_at_principal_components(vae, to_pixel_values(images[rows], vae.device), generator)


@torch.no_grad()
def fit_latent_statistics(model: MsdmModel, images: Tensor, batch_size: int = 32) -> None:
    """Store mean and standard deviation of the latents of images [N, 3, S, S] in the autoencoder.

    Each channel has a mean of its own. All share one standard deviation, the root of the mean variance: channels
    that carry little of the picture then stay small, and the denoiser spends its loss on those that carry much.
    """
    if model.vae.config.latents_mean is not None:
        raise ValueError("the autoencoder already has latent statistics; they can be fitted only once")
    total = torch.zeros(model.latent_shape[0], dtype=torch.float64)
    total_square = torch.zeros_like(total)
    for start in range(0, len(images), batch_size):
        moments = model.encode_images(to_pixel_values(images[start : start + batch_size], model.device))
        mean, variance = moments.mean.double().cpu(), moments.std.double().square().cpu()
        total += mean.mean(dim=(2, 3)).sum(dim=0)
        total_square += (mean.square() + variance).mean(dim=(2, 3)).sum(dim=0)
    mean = total / len(images)
    std = float((total_square / len(images) - mean.square()).mean().sqrt())
    model.vae.register_to_config(latents_mean=tuple(mean.tolist()), latents_std=(std,) * len(mean))
