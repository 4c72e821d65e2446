"""Train an autoencoder on pixels, top to bottom.

Shapes: N images, B batch, S image size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from medgen_models import MsdmAutoencoder
from medgen_models.msdm.vae import downsample_half
from torch import Tensor

from medgen_training.autoencoder.config import AutoencoderConfig
from medgen_training.cache import to_pixel_values
from medgen_training.checkpoints import (
    load_latest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from medgen_training.interruption import StopRequest, TrainingInterrupted
from medgen_training.losses import kl_divergence, prediction_loss, structural_similarity
from medgen_training.order import batch_rows, stream_generator
from medgen_training.schedules import lr_factor
from medgen_training.train_log import OnEvent, TrainLog


def train_autoencoder(
    vae: MsdmAutoencoder,
    images: Tensor,
    config: AutoencoderConfig,
    train_dir: Path,
    *,
    identity: Mapping[str, Any],
    seed: int,
    accelerator: Accelerator,
    on_event: OnEvent | None = None,
    should_stop: StopRequest | None = None,
) -> None:
    """Train `vae` in place on images [N, 3, S, S] uint8, going on from the newest checkpoint if there is one.

    Raises:
        CheckpointError: If the newest checkpoint is damaged or of another training.
        TrainingInterrupted: If `should_stop` asked for it; a checkpoint was written.
    """
    checkpoints_dir = train_dir / "checkpoints" / "autoencoder"
    network = accelerator.prepare(vae.train())
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    first_step = 0
    if (checkpoint := load_latest_checkpoint(checkpoints_dir, identity)) is not None:
        vae.load_state_dict(checkpoint.tensors["model"])
        load_optimizer_tensors(optimizer, checkpoint.tensors["optimizer"])
        first_step = checkpoint.step
    log = TrainLog(train_dir, "autoencoder", config.num_steps, first_step=first_step, on_event=on_event)

    for step in range(first_step, config.num_steps):
        rows = batch_rows(step, config.batch_size * accelerator.num_processes, len(images), seed=seed)
        rows = rows[accelerator.process_index :: accelerator.num_processes]
        generator = stream_generator(seed, "autoencoder", step, accelerator.process_index)
        pixel_values = config.jitter(to_pixel_values(images[rows], accelerator.device), generator)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(
                config.lr_schedule, step, config.num_steps, config.warmup_fraction
            )
        with accelerator.autocast():
            loss, figures = autoencoder_loss(network, pixel_values, config, generator)
        accelerator.backward(loss)
        if config.max_grad_norm is not None:
            figures["grad_norm"] = accelerator.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

        done = step + 1
        log.saw_images(len(rows) * accelerator.num_processes)
        if done % config.log_every == 0 or done == config.num_steps:
            log.write(done, {name: float(value) for name, value in figures.items()})
        stopping = should_stop is not None and should_stop()
        if done % config.checkpoint_every == 0 or done == config.num_steps or stopping:
            tensors = {"model": vae.state_dict(), "optimizer": optimizer_tensors(optimizer)}
            save_checkpoint(checkpoints_dir, done, tensors, identity, keep=config.keep_checkpoints)
        if stopping and done < config.num_steps:
            raise TrainingInterrupted(checkpoints_dir, done)
    log.close()
    vae.eval()


def autoencoder_loss(
    vae: MsdmAutoencoder, pixel_values: Tensor, config: AutoencoderConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean loss of a batch of pixel values [B, 3, S, S], and its parts for the log."""
    unwrapped = cast(MsdmAutoencoder, getattr(vae, "module", vae))  # behind DDP
    latent_size = pixel_values.shape[-1] // unwrapped.downsampling
    shape = (len(pixel_values), unwrapped.config.latent_channels, latent_size, latent_size)
    noise = torch.randn(shape, generator=generator).to(pixel_values)
    reconstruction, moments = vae(pixel_values, noise)
    image_loss = reconstruction_loss(reconstruction.pixel_values, pixel_values, config)
    half_loss = reconstruction_loss(reconstruction.half_size, downsample_half(pixel_values), config)
    kl = kl_divergence(moments).mean()
    loss = image_loss + config.half_size_weight * half_loss + config.kl_weight * kl
    mse = prediction_loss(reconstruction.pixel_values.detach(), pixel_values, "l2").mean()
    psnr = 10 * torch.log10(4 / mse)  # the range of pixel values is 2, its square 4
    return loss, {"loss": loss.detach(), "psnr": psnr, "kl": kl.detach()}


def reconstruction_loss(images: Tensor, target: Tensor, config: AutoencoderConfig) -> Tensor:
    """Return the weighted sum of squared error, absolute error and 1 - SSIM, a scalar."""
    loss = config.mse_weight * prediction_loss(images, target, "l2").mean()
    if config.l1_weight:
        loss = loss + config.l1_weight * prediction_loss(images, target, "l1").mean()
    if config.ssim_weight:
        similarity = structural_similarity((images.clamp(-1, 1) + 1) / 2, (target + 1) / 2)
        loss = loss + config.ssim_weight * (1 - similarity.mean())
    return loss
