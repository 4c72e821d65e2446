"""Train a denoiser on latents and encoded prompts, top to bottom.

Shapes: B batch, C latent channels, H x W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from medgen_models import Conditioning, Diffusion, TextToImageModel
from medgen_models.protocol import LearnsVariance
from torch import Tensor, nn

from medgen_training.batches import BatchSource
from medgen_training.best_weights import BestWeights, in_order, numbered
from medgen_training.cache import PromptTable
from medgen_training.checkpoints import (
    laid_out_like,
    load_latest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.ema import ExponentialMovingAverage
from medgen_training.interruption import StopRequest, TrainingInterrupted
from medgen_training.losses import prediction_loss
from medgen_training.order import batch_rows, stream_generator, stream_seed
from medgen_training.schedules import lr_factor
from medgen_training.train_log import OnEvent, TrainLog
from medgen_training.variational_bound import hybrid_loss


class TrainableModel(TextToImageModel, Protocol):
    """A family whose denoiser is trained whole; the trainer may put a wrapper in its place."""

    denoiser: Any


@dataclass(frozen=True)
class ValidationBatch:
    """A held-out batch whose noise never changes, so that its loss can be compared between steps."""

    latents: Tensor  # [B, C, H, W]
    noise: Tensor  # [B, C, H, W]
    timesteps: Tensor  # [B]
    conditioning: Conditioning


def train_denoiser(
    model: TrainableModel,
    source: BatchSource,
    prompts: PromptTable,
    config: DenoiserConfig,
    train_dir: Path,
    *,
    identity: Mapping[str, Any],
    seed: int,
    accelerator: Accelerator,
    validation: ValidationBatch | None = None,
    on_event: OnEvent | None = None,
    should_stop: StopRequest | None = None,
) -> None:
    """Train the denoiser of `model` in place and leave the selected averaged weights in it.

    Raises:
        CheckpointError: If the newest checkpoint is damaged or of another training.
        TrainingInterrupted: If `should_stop` asked for it; a checkpoint was written.
    """
    checkpoints_dir = train_dir / "checkpoints" / "denoiser"
    network = model.denoiser
    parameters = list(network.parameters())
    model.denoiser = accelerator.prepare(network.train())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    ema = ExponentialMovingAverage(parameters, config.ema_decay)
    best = BestWeights()
    first_step = 0
    if (checkpoint := load_latest_checkpoint(checkpoints_dir, identity)) is not None:
        first_step = checkpoint.step
        network.load_state_dict(checkpoint.tensors["model"])
        load_optimizer_tensors(optimizer, checkpoint.tensors["optimizer"])
        saved = in_order(checkpoint.tensors["ema"])
        ema.averages = [laid_out_like(p, t) for p, t in zip(parameters, saved, strict=True)]
        best.restore(checkpoint.tensors["best"], parameters)
    log = TrainLog(train_dir, "denoiser", config.num_steps, first_step=first_step, on_event=on_event)

    for step in range(first_step, config.num_steps):
        images = batch_rows(
            step, config.batch_size * accelerator.num_processes, len(prompts.rows_of_image), seed=seed
        )
        images = images[accelerator.process_index :: accelerator.num_processes]
        generator = stream_generator(seed, "denoiser", step, accelerator.process_index)
        prompt_rows = prompts.draw_rows(images, config.context_dropout, generator)
        latents, conditioning = source(images, prompt_rows, generator)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = model.diffusion.draw_timesteps(len(images), generator).to(latents.device)
        reuse_estimate = (
            model.self_conditioning
            and float(torch.rand((), generator=generator)) < config.self_conditioning_probability
        )
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(
                config.lr_schedule, step, config.num_steps, config.warmup_fraction
            )
        # Dropout layers know only the global generator: it is seeded from the position and put back.
        with torch.random.fork_rng(), accelerator.autocast():
            torch.manual_seed(stream_seed(seed, "dropout", step, accelerator.process_index))
            losses = denoising_losses(
                model, latents, noise, timesteps, conditioning, config, reuse_estimate=reuse_estimate
            )
            loss = losses.mean()
        accelerator.backward(loss)
        figures = {"loss": loss.detach(), "lr": torch.tensor(optimizer.param_groups[0]["lr"])}
        if config.max_grad_norm is not None:
            figures["grad_norm"] = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(parameters, step)

        done = step + 1
        log.saw_images(len(images) * accelerator.num_processes)
        if validation is not None and (done % config.validate_every == 0 or done == config.num_steps):
            figures["validation_loss"] = validation_loss(model, ema, validation, config)
            best.offer(ema.averages, float(figures["validation_loss"]))
        if done % config.log_every == 0 or done == config.num_steps or "validation_loss" in figures:
            log.write(done, {name: float(value) for name, value in figures.items()})
        stopping = should_stop is not None and should_stop()
        if done % config.checkpoint_every == 0 or done == config.num_steps or stopping:
            tensors = {
                "model": network.state_dict(),
                "optimizer": optimizer_tensors(optimizer),
                "ema": numbered(ema.averages),
                "best": best.tensors(),
            }
            save_checkpoint(checkpoints_dir, done, tensors, identity, keep=config.keep_checkpoints)
        if stopping and done < config.num_steps:
            raise TrainingInterrupted(checkpoints_dir, done)
    log.close()
    ema.copy_to(parameters)
    if config.selection == "validation-loss" and best.weights is not None:
        best.copy_to(parameters)
    model.denoiser = network.eval()


def denoising_losses(
    model: TrainableModel,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    config: DenoiserConfig,
    *,
    reuse_estimate: bool,
) -> Tensor:
    """Return the loss of each sample, [B].

    With `reuse_estimate`, a first pass without gradient gives the estimate of the clean latents on which the second
    pass is conditioned  (Chen et al. 2022, "Analog Bits", algorithm 1).
    """
    noisy_latents = model.diffusion.add_noise(latents, noise, timesteps)
    estimate = None
    if reuse_estimate:
        with torch.no_grad():
            first_pred = model.denoise(noisy_latents, timesteps, conditioning)
            estimate = model.diffusion.clean_estimate(first_pred, noisy_latents, timesteps)
    if isinstance(model, LearnsVariance):
        assert isinstance(model.diffusion, Diffusion)
        model_pred, variance_pred = model.denoise_with_variance(noisy_latents, timesteps, conditioning)
        return hybrid_loss(
            model.diffusion,
            latents,
            noise,
            timesteps,
            model_pred,
            variance_pred,
            kind=config.loss,
            vb_weight=config.vb_weight,
        )
    model_pred = model.denoise(noisy_latents, timesteps, conditioning, estimate)
    return prediction_loss(model_pred, model.diffusion.target(latents, noise, timesteps), config.loss)


@torch.no_grad()
def validation_loss(
    model: TrainableModel, ema: ExponentialMovingAverage, batch: ValidationBatch, config: DenoiserConfig
) -> Tensor:
    """Return the mean loss of the averaged weights on a fixed batch, a scalar; the weights stay as they were."""
    network: nn.Module = model.denoiser
    parameters = list(network.parameters())
    current = [parameter.detach().clone() for parameter in parameters]
    ema.copy_to(parameters)
    network.eval()
    losses = denoising_losses(
        model, batch.latents, batch.noise, batch.timesteps, batch.conditioning, config, reuse_estimate=False
    )
    for parameter, value in zip(parameters, current, strict=True):
        parameter.copy_(value)
    network.train()
    return losses.mean()
