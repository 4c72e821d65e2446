import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from medgen_data import ImageDataset
from medgen_training import AdapterTrainConfig, TrainEvent, TrainingDivergedError, train
from medgen_training.adapter.draws import Turns, turns_of_step
from medgen_training.adapter.losses import adapter_losses, draw_losses
from medgen_training.adapter.processes import average_gradients
from medgen_training.adapter.trainer import add_colour_gradients, train_adapter_weights
from medgen_training.checkpoints import load_checkpoint
from torch import Tensor

HLDF = {"every_steps": 1, "num_inference_steps": 2}


def gradient_of_step(prepared: Any, **settings: Any) -> Tensor:
    """Return the gradient of one optimiser step under other settings, flat."""
    config = AdapterTrainConfig.model_validate(prepared.config.model_dump() | settings)
    for parameter in prepared.parameters:
        parameter.grad = None
    for turns in turns_of_step(1, config, len(prepared.data.record_ids), seed=5):
        losses = draw_losses(prepared.model, prepared.data, config, turns, seed=5)
        torch.autograd.backward(losses.mean() / config.accumulation)
        if config.hldf is not None:
            add_colour_gradients(prepared.model, prepared.data, config, turns, prepared.parameters, seed=5)
    return torch.cat([parameter.grad.flatten() for parameter in prepared.parameters])


@pytest.mark.parametrize("changes", [{}, {"hldf": HLDF}, {"adapter": {"text_encoder": True}, "hldf": HLDF}])
def test_two_accumulated_passes_have_the_gradient_of_a_batch_of_two(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any], changes: dict[str, Any]
) -> None:
    prepared = prepare(new_config(**changes))
    together = gradient_of_step(prepared, batch_size=2)
    apart = gradient_of_step(prepared, batch_size=1, accumulation=2)
    assert together.norm() > 0
    assert float((together - apart).norm() / together.norm()) < 1e-5


@pytest.mark.parametrize("family", ["pixart", "sd", "flux"])
def test_cached_and_live_encoders_give_the_same_losses(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any], family: str
) -> None:
    config = new_config(family, context_dropout=0.3)
    losses = {}
    for cache in (True, False):
        prepared = prepare(config.model_copy(update={"cache": cache}))
        turns = Turns(torch.tensor([4, 0, 9]), [7, 8, 9])
        losses[cache] = draw_losses(prepared.model, prepared.data, config, turns, seed=1).detach()
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["pixart", "sd", "flux"])
def test_base_weights_stay_as_they_were_and_only_adapters_learn(
    new_config: Callable[..., AdapterTrainConfig],
    prepare: Callable[..., Any],
    family: str,
) -> None:
    prepared = prepare(new_config(family, adapter={"text_encoder": True}))
    learning = {id(parameter) for parameter in prepared.parameters}
    frozen = [
        parameter
        for module in prepared.model.components().values()
        for parameter in module.parameters()
        if id(parameter) not in learning
    ]
    before = [parameter.detach().clone() for parameter in frozen]
    optimizer = torch.optim.AdamW(prepared.parameters, lr=1e-2)
    start = [parameter.detach().clone() for parameter in prepared.parameters]
    gradient_of_step(prepared)
    assert all(parameter.grad is None for parameter in frozen)
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, frozen, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(start, prepared.parameters, strict=True))
    assert all(parameter.dtype == torch.float32 for parameter in prepared.parameters)


def test_adapters_of_a_bfloat16_base_stay_float32(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config(base_dtype="bfloat16"))
    assert {parameter.dtype for parameter in prepared.parameters} == {torch.float32}
    assert prepared.model.denoiser.proj_out.weight.dtype == torch.bfloat16
    gradient = gradient_of_step(prepared)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "sample"])
def test_snr_weights_multiply_each_loss_by_their_closed_form(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any], prediction_type: str
) -> None:
    gamma = 5.0
    prepared = prepare(new_config())
    model = prepared.model
    model.diffusion = replace(model.diffusion, prediction_type=prediction_type)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, *model.latent_shape, generator=generator).unbind()
    timesteps = torch.tensor([10, 400, 990])
    conditioning = model.encode_prompts(["a", "b", "c"])
    losses = {
        given: adapter_losses(
            model,
            latents,
            noise,
            timesteps,
            conditioning,
            prepared.config.model_copy(update={"snr_gamma": given}),
        )
        for given in (None, gamma)
    }
    alphas = model.diffusion.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    assert snr[0] > gamma > snr[2]  # both sides of the cap
    closed_form = {
        "epsilon": torch.minimum(snr, torch.tensor(gamma)) / snr,
        "v": torch.minimum(snr, torch.tensor(gamma)) / (snr + 1),
        "sample": torch.minimum(snr, torch.tensor(gamma)),
    }[prediction_type]
    torch.testing.assert_close(losses[gamma] / losses[None], closed_form.float(), rtol=1e-5, atol=0)


def test_loss_of_one_image_falls_fivefold(
    new_config: Callable[..., AdapterTrainConfig],
    prepare: Callable[..., Any],
) -> None:
    prepared = prepare(new_config(adapter={"rank": 8, "targets": "authors", "text_encoder": True}))
    optimizer = torch.optim.AdamW(prepared.parameters, lr=1e-2)
    losses: list[float] = []
    while len(losses) < 250 and not (losses and losses[-1] < losses[0] / 5):
        turns = Turns(torch.tensor([0]), [0])  # the same turn again and again: same noise, same level
        loss = draw_losses(prepared.model, prepared.data, prepared.config, turns, seed=0).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


def test_training_on_one_image_lowers_the_loss_over_all_noise_levels(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    config = new_config(
        num_steps=150, batch_size=4, learning_rate=1e-2, checkpoint_every=500,
        adapter={"rank": 8, "targets": "authors"},
    )  # fmt: skip
    events: list[TrainEvent] = []
    one = replace(phantoms, records=phantoms.records[:1])
    train(config, one, texts, tmp_path / "run", seed=0, on_event=events.append)
    losses = [event.figures["loss"] for event in events if event.stage == "adapter"]
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])


def broken_after(num_good_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss be no number from some step on."""
    calls = iter(range(10_000))

    def losses(*args: Any) -> Tensor:
        return adapter_losses(*args) * (1.0 if next(calls) < num_good_steps else float("nan"))

    monkeypatch.setattr("medgen_training.adapter.losses.adapter_losses", losses)


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_loss_that_is_no_number_names_its_images_and_keeps_the_last_good_checkpoint(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_every: int,
) -> None:
    config = new_config(num_steps=20, checkpoint_every=4, log_every=log_every, gradient_checkpointing=False)
    broken_after(6, monkeypatch)
    with pytest.raises(
        TrainingDivergedError, match=r"loss of step 7 is not finite .*checkpoint-4 is from"
    ) as found:
        train(config, phantoms, texts, tmp_path / "run", seed=2)
    (turns,) = turns_of_step(6, config, len(phantoms.records), seed=2)
    for row in turns.images.tolist():
        assert phantoms.records[row].record_id in str(found.value)
    saved = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints" / "adapter").iterdir())
    assert saved == ["checkpoint-4"]


def test_a_gradient_that_is_no_number_is_found_before_it_is_saved(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, losses: Tensor) -> Tensor:
            return losses.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * float("nan")

    calls = iter(range(100))

    def losses(*args: Any) -> Tensor:
        values = adapter_losses(*args)
        return values if next(calls) != 3 else Breaks.apply(values)

    monkeypatch.setattr("medgen_training.adapter.losses.adapter_losses", losses)
    config = new_config(
        num_steps=8, checkpoint_every=2, log_every=50, max_grad_norm=None, gradient_checkpointing=False
    )
    with pytest.raises(TrainingDivergedError, match=r"step 4 is not finite .*checkpoint-2 is from before"):
        train(config, phantoms, texts, tmp_path / "run", seed=0)
    kept = tmp_path / "run" / "checkpoints" / "adapter" / "checkpoint-2"
    identity = load_checkpoint_identity(kept)
    tensors = load_checkpoint(kept, identity).tensors["adapter"]
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def load_checkpoint_identity(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())["identity"]
    return found


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_logged_norm_is_that_before_clipping_and_clipping_bounds_what_the_optimiser_sees(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_grad_norm: float | None,
) -> None:
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def watched_step(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = [
            p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        seen.append(float(torch.cat(gradients).norm()))
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    events: list[TrainEvent] = []
    config = new_config(max_grad_norm=max_grad_norm)
    train(config, phantoms, texts, tmp_path / "run", seed=0, on_event=events.append)
    logged = [event.figures["grad_norm"] for event in events if event.stage == "adapter"]
    assert len(seen) == len(logged) == 6
    if max_grad_norm is None:
        assert logged == pytest.approx(seen, rel=1e-5)
    else:
        assert min(logged) > 1e-2
        assert max(seen) <= 1.001e-3


def test_colour_loss_comes_in_one_of_n_steps_and_changes_the_adapter(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    steps = {}
    norms = {}
    for name, hldf in {
        "off": None,
        "second": {"every_steps": 3, "num_inference_steps": 2, "weight": 100.0},
        "zero": {"every_steps": 3, "num_inference_steps": 2, "weight": 100.0, "include_step_zero": True},
    }.items():
        events: list[TrainEvent] = []
        train(new_config(hldf=hldf), phantoms, texts, tmp_path / name, seed=0, on_event=events.append)
        rows = [event for event in events if event.stage == "adapter"]
        steps[name] = [event.step for event in rows if "colour_loss" in event.figures]
        norms[name] = [event.figures["grad_norm"] for event in rows]
    assert steps == {"off": [], "second": [3, 6], "zero": [1, 4]}
    assert norms["second"][:2] == norms["off"][:2]
    assert norms["second"][2] > 1.01 * norms["off"][2]
    assert norms["zero"][0] > 1.01 * norms["off"][0]


def test_dropout_of_the_text_encoder_acts_only_when_it_is_asked_for(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    turns = Turns(torch.tensor([0, 1]), [0, 1])
    losses: dict[bool, list[Tensor]] = {}
    for dropout in (False, True):
        prepared = prepare(new_config(adapter={"text_encoder": True}, text_encoder_dropout=dropout))
        losses[dropout] = []
        for seed in (0, 1):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                drawn = draw_losses(prepared.model, prepared.data, prepared.config, turns, seed=0)
            losses[dropout].append(drawn.detach())
    assert torch.equal(*losses[False])
    assert not torch.equal(*losses[True])


def test_adapter_dropout_needs_no_training_mode_of_the_base(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config(adapter={"dropout": 0.5}))
    training = [name for name, module in prepared.model.denoiser.named_modules() if module.training]
    assert training
    assert all(".lora_dropout" in name for name in training)


def test_the_loop_leaves_the_global_generator_alone(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any], tmp_path: Path
) -> None:
    adapter = {"dropout": 0.5, "text_encoder": True}
    prepared = prepare(new_config(num_steps=2, adapter=adapter, text_encoder_dropout=True, hldf=HLDF))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train_adapter_weights(
        prepared.model,
        prepared.data,
        prepared.config,
        tmp_path / "run",
        identity={},
        seed=0,
        accelerator=Accelerator(cpu=True),
    )
    assert torch.equal(before, torch.random.get_rng_state())


def test_embedded_guidance_reaches_a_denoiser_that_takes_it(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config("flux"))
    turns = Turns(torch.tensor([0]), [0])
    losses = [
        draw_losses(
            prepared.model,
            prepared.data,
            prepared.config.model_copy(update={"embedded_guidance": scale}),
            turns,
            seed=0,
        ).item()
        for scale in (1.0, 3.5)
    ]
    assert losses[0] != losses[1]


def test_number_of_steps_counts_passes_over_the_images(new_config: Callable[..., AdapterTrainConfig]) -> None:
    config = new_config(num_steps=None, num_epochs=15, batch_size=1)
    assert config.steps_for(6_400) == 96_000  # Med-Art on Kvasir
    halved = config.model_copy(update={"accumulation": 2})
    assert halved.steps_for(6_400, num_processes=2) == 24_000
    assert config.steps_for(7, num_processes=4) == math.ceil(15 * 7 / 4)


def test_one_process_averages_nothing(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config())
    before = gradient_of_step(prepared)
    average_gradients(prepared.parameters, Accelerator(cpu=True))
    after = torch.cat([p.grad.flatten() for p in prepared.parameters if p.grad is not None])
    assert torch.equal(before, after)
