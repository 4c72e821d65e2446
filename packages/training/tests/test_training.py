import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_models import load_model
from medgen_models.tiny import TINY_MSDM
from medgen_training import (
    CheckpointError,
    MsdmTrainConfig,
    TrainEvent,
    TrainingInterrupted,
    plan_training,
    train,
)
from PIL import Image
from safetensors.torch import load_file


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for part in ("unet", "vae"):
        for name, tensor in load_file(model_dir / part / "diffusion_pytorch_model.safetensors").items():
            tensors[f"{part}.{name}"] = tensor
    return tensors


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def stop_at(stage_step: int) -> Callable[[], bool]:
    """Ask to stop after the given number of steps of both stages together."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) == stage_step


def with_denoiser(config: MsdmTrainConfig, **changes: Any) -> MsdmTrainConfig:
    return config.model_copy(update={"denoiser": config.denoiser.model_copy(update=changes)})


@pytest.mark.parametrize("stop_step", [1, 5, 7, 11, 13])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stopping_and_resuming_gives_the_same_weights_bit_for_bit(
    config: MsdmTrainConfig,
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_step: int,
    dropout: float,
) -> None:
    from dataclasses import replace

    from medgen_models.msdm import presets

    monkeypatch.setitem(
        presets.PRESETS, "msdm-tiny", replace(TINY_MSDM, dropout=dropout, self_conditioning=True)
    )
    straight = train(config, phantoms, texts, tmp_path / "straight", seed=3)
    with pytest.raises(TrainingInterrupted, match="resume goes on"):
        train(config, phantoms, texts, tmp_path / "stopped", seed=3, should_stop=stop_at(stop_step))
    torch.manual_seed(99)  # whatever the global generator holds must not matter
    resumed = train(config, phantoms, texts, tmp_path / "stopped", seed=3, resume=True)
    assert_same_weights(straight, resumed)
    logs = [
        (tmp_path / name / "train_log.jsonl").read_text().splitlines() for name in ("straight", "stopped")
    ]
    rows = [[(row["stage"], row["step"], row["loss"]) for row in map(json.loads, log)] for log in logs]
    assert rows[0] == rows[1]


def test_training_lowers_both_losses_on_a_few_images(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    from dataclasses import replace

    few = replace(phantoms, records=phantoms.records[:4])
    config = MsdmTrainConfig.model_validate(
        {
            "text_encoder": config.text_encoder,
            "autoencoder": {
                "num_steps": 120,
                "batch_size": 4,
                "log_every": 10,
                "checkpoint_every": 500,
                "ssim_weight": 0,
            },
            "denoiser": {"num_steps": 250, "batch_size": 8, "log_every": 10, "checkpoint_every": 500},
        }
    )
    events: list[TrainEvent] = []
    train(config, few, texts, tmp_path / "run", seed=0, on_event=events.append)
    for stage, factor in (("autoencoder", 0.35), ("denoiser", 0.8)):
        losses = [event.figures["loss"] for event in events if event.stage == stage]
        assert sum(losses[-3:]) < factor * sum(losses[:3])


def test_what_a_recipe_changes_in_the_preset_is_what_the_model_has(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    changed = config.model_copy(update={"latent_channels": 6, "dropout": 0.25, "self_conditioning": True})
    assert plan_training(changed, 24) != plan_training(config, 24)
    model = load_model(train(changed, phantoms, texts, tmp_path / "run", seed=0))
    assert model.latent_shape[0] == model.vae.config.latent_channels == 6
    assert model.denoiser.config.dropout == 0.25
    assert model.self_conditioning
    assert config.shape == TINY_MSDM


def test_finished_folder_holds_what_the_formats_promise(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    model_dir = train(config, phantoms, texts, run, seed=0)
    model = load_model(model_dir)
    assert model.vae.config.latents_mean is not None
    with Image.open(run / "contact_sheet.png") as sheet:
        assert sheet.width > 300
    for stage, last in (("autoencoder", 6), ("denoiser", 8)):
        assert (run / "checkpoints" / stage / f"checkpoint-{last}" / "complete").is_file()
        assert list((run / "tensorboard" / stage).glob("events.*"))
    # Finished is finished: the same call returns at once and changes nothing.
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    assert train(config, phantoms, texts, run, seed=0, resume=True) == model_dir
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}


def test_latents_the_denoiser_sees_are_centred_and_have_unit_variance_in_the_mean(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    train(config, phantoms, texts, tmp_path / "run", seed=0)
    cached = load_file(tmp_path / "run" / "cache" / "latents.safetensors")
    mean, std = cached["mean"][0].double(), cached["std"][0].double()
    centre = mean.mean(dim=(0, 2, 3))
    variance = (mean.square() + std.square()).mean(dim=(0, 2, 3)) - centre.square()
    torch.testing.assert_close(centre, torch.zeros(4).double(), rtol=0, atol=1e-4)
    assert variance.mean().item() == pytest.approx(1, rel=1e-3)
    assert variance.max() > 1.05 * variance.min()  # channels keep their shares


@pytest.mark.parametrize(("start", "least_psnr"), [("auto", 20.0), ("random", 0.0)])
def test_an_autoencoder_that_can_starts_at_the_principal_components(
    config: MsdmTrainConfig,
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    least_psnr: float,
) -> None:
    from dataclasses import replace

    from medgen_models.msdm import presets

    with_path = replace(TINY_MSDM, autoencoder_channels=(8, 16, 48), upsampling="pixel-shuffle")
    monkeypatch.setitem(presets.PRESETS, "msdm-tiny", with_path)
    settings = config.model_dump()
    settings["autoencoder"] |= {"start": start, "num_steps": 1}
    events: list[TrainEvent] = []
    train(
        MsdmTrainConfig.model_validate(settings),
        phantoms,
        texts,
        tmp_path / "run",
        seed=0,
        on_event=events.append,
    )
    psnr = next(event.figures["psnr"] for event in events if event.stage == "autoencoder")
    assert least_psnr < psnr < least_psnr + 15


def test_asking_for_components_where_there_is_no_linear_path_says_why() -> None:
    with pytest.raises(ValueError, match=r"autoencoder\.start: the autoencoder of msdm-256 cannot start"):
        MsdmTrainConfig.model_validate(
            {"preset": "msdm-256", "autoencoder": {"start": "principal-components"}}
        )


def test_clipping_really_bounds_the_gradient(
    config: MsdmTrainConfig,
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched_step(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    tight = with_denoiser(config, max_grad_norm=1e-3)
    tight = tight.model_copy(
        update={"autoencoder": config.autoencoder.model_copy(update={"max_grad_norm": 1e-3})}
    )
    train(tight, phantoms, texts, tmp_path / "run", seed=0)
    assert len(norms) == 14
    assert max(norms) <= 1.001e-3


def test_best_weights_are_those_of_the_lowest_validation_loss(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    # A learning rate that destroys the weights after the first steps: the best are not the last.
    wild = with_denoiser(
        config, selection="validation-loss", validate_every=1, learning_rate=0.5, lr_schedule="constant",
        ema_decay=0.0, num_steps=6,
    )  # fmt: skip
    run = tmp_path / "run"
    model_dir = train(wild, phantoms, texts, run, seed=0, validation_set=phantoms.select(split="test"))
    rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if row["stage"] == "denoiser"]
    last = load_file(run / "checkpoints" / "denoiser" / "checkpoint-6" / "ema.safetensors")
    best = load_file(run / "checkpoints" / "denoiser" / "checkpoint-6" / "best.safetensors")
    assert float(best.pop("figure")) == pytest.approx(min(losses))
    assert losses.index(min(losses)) < 5
    saved = list(load_model(model_dir).denoiser.parameters())
    assert all(torch.equal(saved[int(index)], tensor) for index, tensor in best.items())
    assert not all(torch.equal(saved[int(index)], tensor) for index, tensor in last.items())


def test_live_encoding_trains_too(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    live = with_denoiser(config, cache=False, brightness=0.2, contrast=0.2)
    train(live, phantoms, texts, tmp_path / "run", seed=0)
    assert not (tmp_path / "run" / "cache").exists()


def test_folder_of_another_recipe_is_refused(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    train(config, phantoms, texts, tmp_path / "run", seed=0)
    with pytest.raises(CheckpointError, match="already holds a training; add --resume"):
        train(config, phantoms, texts, tmp_path / "run", seed=0)
    changed = with_denoiser(config, learning_rate=1e-5)
    with pytest.raises(CheckpointError, match=r"config\.denoiser\.learning_rate: was 0\.001, now 1e-05"):
        train(changed, phantoms, texts, tmp_path / "run", seed=0, resume=True)
    with pytest.raises(CheckpointError, match="seed: was 0, now 1"):
        train(config, phantoms, texts, tmp_path / "run", seed=1, resume=True)


def test_validation_without_validation_images_says_what_to_do(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    choosing = with_denoiser(config, selection="validation-loss")
    with pytest.raises(
        ValueError, match=r"needs images with split 'validation'; set data\.validation_fraction"
    ):
        train(choosing, phantoms, texts, tmp_path / "run", seed=0)


def test_plan_counts_without_making_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real presets
    plan = plan_training(
        MsdmTrainConfig.model_validate(
            {
                "preset": "msdm-256",
                "text_encoder": "openai/clip-vit-large-patch14",
                "denoiser": {"num_steps": 10},
            }
        ),
        num_images=100,
    )
    assert plan.num_trainable_parameters == 326_508_296 + 13_365_094
    assert plan.num_frozen_parameters == 123_060_480
    assert plan.num_steps == 260
    assert plan.cache_bytes == 100 * 2 * 8 * 32 * 32 * 4
