"""Train adapters on a frozen generator, top to bottom.

Shapes: B batch, C latent channels, H x W latent size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from medgen_models import TextToImageModel
from medgen_models.adapters import adapter_parameters, adapter_state, is_adapted
from torch import Tensor, nn

from medgen_training.adapter.batches import LivePrompts, to_device, unconditional_like
from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.adapter.draws import Turns, draw_colour_turns, turns_of_step
from medgen_training.adapter.losses import AdapterData, draw_losses
from medgen_training.adapter.processes import all_stop, average_gradients, averaged
from medgen_training.adapter.selection import held_out_loss
from medgen_training.best_weights import BestWeights
from medgen_training.checkpoints import (
    load_latest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from medgen_training.hldf import add_gradients, fires, hldf_gradients, hldf_gradients_of_prompts
from medgen_training.interruption import StopRequest, TrainingDivergedError, TrainingInterrupted
from medgen_training.order import stream_seed
from medgen_training.schedules import lr_factor
from medgen_training.train_log import OnEvent, TrainLog


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

    They are left as they are after the last step, or, with `selection: validation-loss`, as they were at the step
    whose held-out loss was the lowest.

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
    best = BestWeights()
    first_step = 0
    if (checkpoint := load_latest_checkpoint(checkpoints_dir, identity)) is not None:
        first_step = checkpoint.step
        _load_adapters(adapted, checkpoint.tensors["adapter"])
        load_optimizer_tensors(optimizer, checkpoint.tensors["optimizer"])
        best.restore(checkpoint.tensors["best"], parameters)
    log = None
    if accelerator.is_main_process:
        log = TrainLog(train_dir, "adapter", num_steps, first_step=first_step, on_event=on_event)
    first_bad_step = torch.full((), -1, device=model.device)

    for step in range(first_step, num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(
                config.lr_schedule, step, num_steps, config.warmup_fraction
            )
        figures = step_gradients(model, data, config, step, parameters, seed=seed, accelerator=accelerator)
        optimizer.step()
        optimizer.zero_grad()
        is_bad = (first_bad_step < 0) & ~torch.isfinite(torch.stack([*figures.values()]).sum())
        first_bad_step = torch.where(is_bad, step, first_bad_step)

        done = step + 1
        if config.selection == "validation-loss" and (done % config.validate_every == 0 or done == num_steps):
            # Every process looks at all of them and finds the same, so that none has to be told.
            figures["validation_loss"] = held_out_loss(model, adapted, data, config, seed=seed)
            best.offer([parameter.detach() for parameter in parameters], float(figures["validation_loss"]))
        looking = done % config.log_every == 0 or done == num_steps or "validation_loss" in figures
        stopping = all_stop(should_stop, accelerator, looking=looking)
        saving = done % config.checkpoint_every == 0 or done == num_steps or stopping
        if log is not None:
            log.saw_images(config.batch_size * config.accumulation * accelerator.num_processes)
        if looking or saving:
            _check_finite(first_bad_step, checkpoints_dir, data, config, accelerator, seed=seed)
        if looking and log is not None:
            lr = optimizer.param_groups[0]["lr"]
            log.write(done, {name: float(value) for name, value in figures.items()} | {"lr": lr})
        if saving and accelerator.is_main_process:
            tensors = {
                "adapter": _adapter_tensors(adapted),
                "optimizer": optimizer_tensors(optimizer),
                "best": best.tensors(),
            }
            save_checkpoint(checkpoints_dir, done, tensors, identity, keep=config.keep_checkpoints)
        if stopping and done < num_steps:
            raise TrainingInterrupted(checkpoints_dir, done)
    if log is not None:
        log.close()
    if best.weights is not None:
        best.copy_to(parameters)


def step_gradients(
    model: TextToImageModel,
    data: AdapterData,
    config: AdapterTrainConfig,
    step: int,
    parameters: Sequence[nn.Parameter],
    *,
    seed: int,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Leave the clipped gradient of an optimiser step in the parameters; return its figures, on the device."""
    loss, colour_loss = torch.zeros((), device=model.device), torch.zeros((), device=model.device)
    has_colour_loss = config.hldf is not None and fires(step, config.hldf)
    turns_of_process = turns_of_step(
        step,
        config,
        len(data.record_ids),
        seed=seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    for turns in turns_of_process:
        with _seeded_dropout(config, stream_seed(seed, "dropout", turns.numbers[0])):
            losses = draw_losses(model, data, config, turns, seed=seed)
            (losses.mean() / config.accumulation).backward()
        loss += losses.detach().mean() / config.accumulation
        if has_colour_loss:  # the graph of the loss above is gone: the two are never in memory together
            mean = add_colour_gradients(model, data, config, turns, parameters, seed=seed)
            colour_loss += mean / config.accumulation
    average_gradients(parameters, accelerator)
    figures = {"loss": loss, "grad_norm": _clip(parameters, config.max_grad_norm)}
    if has_colour_loss:
        figures["colour_loss"] = colour_loss
    return averaged(figures, accelerator)


def add_colour_gradients(
    model: TextToImageModel,
    data: AdapterData,
    config: AdapterTrainConfig,
    turns: Turns,
    parameters: Sequence[nn.Parameter],
    *,
    seed: int,
) -> Tensor:
    """Add the gradient of the colour loss of B turns to that of the parameters; return the mean loss."""
    assert config.hldf is not None
    images = turns.images
    prompt_rows, noise = draw_colour_turns(model, data.prompts, turns, seed=seed)
    noise = to_device(noise, model.device)
    target = data.colours[images].to(noise)
    if isinstance(data.conditions, LivePrompts):
        texts = [data.prompts.prompts[row] for row in prompt_rows.tolist()]
        result = hldf_gradients_of_prompts(model, texts, target, noise, config.hldf, parameters)
    else:
        conditioning = data.conditions(images, prompt_rows)
        unconditional = unconditional_like(model, data.conditions, images)
        result = hldf_gradients(model, conditioning, unconditional, target, noise, config.hldf, parameters)
    share = [None if found is None else found / config.accumulation for found in result.gradients]
    add_gradients(parameters, share)
    return result.loss.mean()


def _clip(parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Return the norm of the gradient, and bound it."""
    return nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)


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
    ids = [
        data.record_ids[row]
        for process_index in range(accelerator.num_processes)
        for turns in turns_of_step(
            bad_step,
            config,
            len(data.record_ids),
            seed=seed,
            process_index=process_index,
            num_processes=accelerator.num_processes,
        )
        for row in turns.images.tolist()
    ]
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
