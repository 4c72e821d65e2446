"""Train adapters on a frozen generator, top to bottom.

Shapes: B batch, C latent channels, H x W latent size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from medgen_models import Conditioning, Diffusion, TextToImageModel
from medgen_models.adapters import adapter_parameters, adapter_state, is_adapted
from torch import Tensor, nn

from medgen_training.adapter.batches import ConditionSource, LatentSource, LivePrompts, unconditional_like
from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.cache import PromptTable
from medgen_training.checkpoints import (
    load_latest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from medgen_training.colour_statistics import ColourStatistics
from medgen_training.hldf import add_gradients, fires, hldf_gradients, hldf_gradients_of_prompts
from medgen_training.interruption import StopRequest, TrainingDivergedError, TrainingInterrupted
from medgen_training.losses import min_snr_weights, prediction_loss
from medgen_training.order import batch_rows, stream_generator, stream_seed
from medgen_training.schedules import lr_factor
from medgen_training.train_log import OnEvent, TrainLog


@dataclass(frozen=True)
class AdapterData:
    """What the loop draws from."""

    latents: LatentSource
    conditions: ConditionSource
    prompts: PromptTable
    colours: ColourStatistics  # of every training image, N rows
    record_ids: Sequence[str]


def train_adapter_weights(
    model: TextToImageModel,
    data: AdapterData,
    config: AdapterTrainConfig,
    train_dir: Path,
    *,
    identity: Mapping[str, Any],
    seed: int,
    accelerator: Accelerator,
    on_event: OnEvent | None = None,
    should_stop: StopRequest | None = None,
) -> None:
    """Train the adapters that `model` carries, in place, going on from the newest checkpoint if there is one.

    The device is not waited for between two log steps: a loss that is no number is noted there and found at the
    next one, before anything is saved.

    Raises:
        CheckpointError: If the newest checkpoint is damaged or of another training.
        TrainingDivergedError: If a loss was not finite; the last good checkpoint stays.
        TrainingInterrupted: If `should_stop` asked for it; a checkpoint was written.
    """
    checkpoints_dir = train_dir / "checkpoints" / "adapter"
    adapted = {name: module for name, module in model.components().items() if is_adapted(module)}
    parameters = [parameter for module in adapted.values() for parameter in adapter_parameters(module)]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    num_steps = config.steps_for(len(data.record_ids), accelerator.num_processes)
    first_step = 0
    if (checkpoint := load_latest_checkpoint(checkpoints_dir, identity)) is not None:
        first_step = checkpoint.step
        _load_adapters(adapted, checkpoint.tensors["adapter"])
        load_optimizer_tensors(optimizer, checkpoint.tensors["optimizer"])
    log = TrainLog(train_dir, "adapter", num_steps, first_step=first_step, on_event=on_event)
    first_bad_step = torch.full((), -1, device=model.device)

    for step in range(first_step, num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(
                config.lr_schedule, step, num_steps, config.warmup_fraction
            )
        total = torch.zeros((), device=model.device)
        for part in range(config.accumulation):
            position = step * config.accumulation + part
            images = _rows_of_process(position, config, data, accelerator, seed=seed)
            generator = stream_generator(seed, "adapter", position, accelerator.process_index)
            with _seeded_dropout(config, stream_seed(seed, "dropout", position, accelerator.process_index)):
                losses = draw_losses(model, data, config, images, generator)
                (losses.mean() / config.accumulation).backward()
            total += losses.detach().mean() / config.accumulation
        figures: dict[str, Tensor] = {}
        if config.hldf is not None and fires(step, config.hldf):
            # The graph of the loss above is gone: the two are never in memory together.
            figures["colour_loss"] = add_colour_gradients(model, data, config, images, parameters, generator)
        average_gradients(parameters, accelerator)
        if (
            accelerator.num_processes > 1
        ):  # all processes see the same loss, so all stop at one that is no number
            total = accelerator.reduce(total, reduction="mean")
        if config.max_grad_norm is not None:
            figures["grad_norm"] = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        figures["loss"] = total
        is_bad = (first_bad_step < 0) & ~torch.isfinite(total)
        first_bad_step = torch.where(is_bad, step, first_bad_step)

        done = step + 1
        log.saw_images(config.batch_size * config.accumulation * accelerator.num_processes)
        stopping = should_stop is not None and should_stop()
        saving = done % config.checkpoint_every == 0 or done == num_steps or stopping
        if done % config.log_every == 0 or saving:
            _check_finite(first_bad_step, checkpoints_dir, data, config, accelerator, seed=seed)
            figures["lr"] = torch.tensor(optimizer.param_groups[0]["lr"])
            if accelerator.is_main_process:
                log.write(done, {name: float(value) for name, value in figures.items()})
        if saving and accelerator.is_main_process:
            tensors = {"adapter": _adapter_tensors(adapted), "optimizer": optimizer_tensors(optimizer)}
            save_checkpoint(checkpoints_dir, done, tensors, identity, keep=config.keep_checkpoints)
        if stopping and done < num_steps:
            raise TrainingInterrupted(checkpoints_dir, done)
    log.close()


def draw_losses(
    model: TextToImageModel,
    data: AdapterData,
    config: AdapterTrainConfig,
    images: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw prompts, latents, noise and noise levels of image rows [B], and return their losses, [B]."""
    prompt_rows = data.prompts.draw_rows(images, config.context_dropout, generator)
    latents = data.latents(images, generator)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    if config.noise_offset:
        shift = torch.randn((*latents.shape[:2], 1, 1), generator=generator)
        noise = noise + config.noise_offset * shift.to(latents)
    timesteps = model.diffusion.draw_timesteps(len(images), generator).to(latents.device)
    conditioning = data.conditions(images, prompt_rows)
    if model.embeds_guidance:
        conditioning = conditioning.with_guidance(config.embedded_guidance)
    return adapter_losses(model, latents, noise, timesteps, conditioning, config)


def adapter_losses(
    model: TextToImageModel,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    config: AdapterTrainConfig,
) -> Tensor:
    """Return the loss of each sample, [B]."""
    noisy_latents = model.diffusion.add_noise(latents, noise, timesteps)
    model_pred = model.denoise(noisy_latents, timesteps, conditioning)
    losses = prediction_loss(model_pred, model.diffusion.target(latents, noise, timesteps), config.loss)
    if config.snr_gamma is None:
        return losses
    assert isinstance(model.diffusion, Diffusion)
    return losses * min_snr_weights(model.diffusion, timesteps, config.snr_gamma).to(losses)


def add_colour_gradients(
    model: TextToImageModel,
    data: AdapterData,
    config: AdapterTrainConfig,
    images: Tensor,
    parameters: Sequence[nn.Parameter],
    generator: torch.Generator,
) -> Tensor:
    """Add the gradient of the colour loss of image rows [B] to that of the parameters; return the mean loss."""
    assert config.hldf is not None
    prompt_rows = data.prompts.draw_rows(images, 0.0, generator)
    noise = torch.randn((len(images), *model.latent_shape), generator=generator).to(model.device)
    target = data.colours[images].to(noise)
    if isinstance(data.conditions, LivePrompts):
        texts = [data.prompts.prompts[row] for row in prompt_rows.tolist()]
        result = hldf_gradients_of_prompts(model, texts, target, noise, config.hldf, parameters)
    else:
        conditioning = data.conditions(images, prompt_rows)
        unconditional = unconditional_like(model, data.conditions, images)
        result = hldf_gradients(model, conditioning, unconditional, target, noise, config.hldf, parameters)
    add_gradients(parameters, result.gradients)
    return result.loss.mean()


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Average the gradients of all processes, as one message: adapters are small."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def _rows_of_process(
    position: int, config: AdapterTrainConfig, data: AdapterData, accelerator: Accelerator, *, seed: int
) -> Tensor:
    num_processes = accelerator.num_processes
    rows = batch_rows(position, config.batch_size * num_processes, len(data.record_ids), seed=seed)
    return rows[accelerator.process_index :: num_processes]


@contextmanager
def _seeded_dropout(config: AdapterTrainConfig, seed: int) -> Iterator[None]:
    """Seed the global generator, the only one that dropout layers know, from the position; then put it back."""
    if not (config.adapter.dropout or config.text_encoder_dropout):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _check_finite(
    first_bad_step: Tensor,
    checkpoints_dir: Path,
    data: AdapterData,
    config: AdapterTrainConfig,
    accelerator: Accelerator,
    *,
    seed: int,
) -> None:
    bad_step = int(first_bad_step)
    if bad_step < 0:
        return
    positions = range(bad_step * config.accumulation, (bad_step + 1) * config.accumulation)
    rows = [
        _rows_of_process(position, config, data, accelerator, seed=seed).tolist() for position in positions
    ]
    ids = [data.record_ids[row] for some in rows for row in some]
    raise TrainingDivergedError(checkpoints_dir, bad_step + 1, ids)


def _adapter_tensors(adapted: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": tensor
        for part, module in adapted.items()
        for name, tensor in adapter_state(module).items()
    }


@torch.no_grad()
def _load_adapters(adapted: Mapping[str, nn.Module], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in _adapter_tensors(adapted).items():
        tensor.copy_(saved[name])
