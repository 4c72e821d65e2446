"""The batches of a denoiser: where they come from, the first one as a picture, the one that validates.

Shapes: N images, S image size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from medgen_data import ImageDataset
from medgen_models import TextToImageModel
from torch import Tensor

from medgen_training.batches import BatchSource, CachedBatches, LiveBatches
from medgen_training.cache import (
    LatentVariants,
    PromptTable,
    build_prompt_table,
    image_encoder_sha256,
    latent_moments,
    load_pixels,
    prompt_embeddings,
    text_encoder_sha256,
)
from medgen_training.contact_sheet import write_contact_sheet
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.denoiser.trainer import ValidationBatch
from medgen_training.order import batch_rows, stream_generator
from medgen_training.train_log import OnEvent, TrainEvent
from medgen_training.training_rows import held_out_images


def build_source(
    model: TextToImageModel,
    images: Tensor,
    prompts: PromptTable,
    config: DenoiserConfig,
    cache_dir: Path,
    *,
    seed: int,
    on_event: OnEvent | None = None,
) -> BatchSource:
    """Return where batches come from, filling the cache first where it is wanted."""
    if not config.cache:
        return LiveBatches(model, images, prompts.prompts, config.jitter)

    def on_progress(done: int, total: int) -> None:
        if on_event is not None:
            on_event(TrainEvent("cache", done, total, 0.0, {}))

    variants = LatentVariants(config.num_variants, config.jitter, seed)
    vae_sha256 = image_encoder_sha256(model)
    moments = latent_moments(
        model, images, variants, cache_dir, vae_sha256=vae_sha256, on_progress=on_progress
    )
    encoder_sha256 = text_encoder_sha256(model)
    conditioning = prompt_embeddings(model, prompts.prompts, cache_dir, text_encoder_sha256=encoder_sha256)
    return CachedBatches(moments, conditioning, model.device)


def write_first_batch(
    model: TextToImageModel,
    source: BatchSource,
    prompts: PromptTable,
    config: DenoiserConfig,
    sheet_file: Path,
    *,
    seed: int,
) -> None:
    """Draw the batch of step 0 exactly as the trainer will, and write its contact sheet."""
    images = batch_rows(0, config.batch_size, len(prompts.rows_of_image), seed=seed)
    generator = stream_generator(seed, "denoiser", 0, 0)
    rows = prompts.draw_rows(images, config.context_dropout, generator)
    latents, _ = source(images, rows, generator)
    write_contact_sheet(model, latents, [prompts.prompts[row] for row in rows.tolist()], sheet_file)


def validation_batch(
    model: TextToImageModel,
    validation_set: ImageDataset | None,
    texts: Mapping[str, Sequence[str]],
    *,
    seed: int,
    most: int = 64,
) -> ValidationBatch:
    """Return up to `most` held-out images with noise that never changes.

    Raises:
        ValueError: If there are no held-out images.
    """
    held_out = held_out_images(validation_set)
    images = load_pixels(held_out, model.image_size)[:most]
    prompts = build_prompt_table(held_out, texts)
    generator = stream_generator(seed, "validation")
    rows = prompts.draw_rows(torch.arange(len(images)), 0.0, generator)
    latents, conditioning = LiveBatches(model, images, prompts.prompts)(
        torch.arange(len(images)), rows, generator
    )
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    timesteps = torch.linspace(0, model.diffusion.num_timesteps - 1, len(images)).long().to(latents.device)
    return ValidationBatch(latents, noise, timesteps, conditioning)
