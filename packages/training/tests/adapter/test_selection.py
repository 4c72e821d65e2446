import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_models.adapters import is_adapted
from medgen_training import AdapterTrainConfig, TrainingInterrupted, train
from medgen_training.adapter.selection import NUM_TURNS, held_out_loss
from safetensors.torch import load_file

NewConfig = Callable[..., AdapterTrainConfig]
Texts = dict[str, tuple[str, ...]]


@pytest.fixture
def halves(phantoms: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """Return images to train on and held-out ones."""
    return (
        replace(phantoms, records=phantoms.records[:16]),
        replace(phantoms, records=phantoms.records[16:21]),
    )


def validation_losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}


def adapter_weights(adapter_dir: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(adapter_dir.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_the_adapter_of_the_lowest_held_out_loss_is_kept(
    new_config: NewConfig, halves: tuple[ImageDataset, ImageDataset], texts: Texts, tmp_path: Path
) -> None:
    training, held_out = halves
    # A learning rate that destroys the adapter after the first steps: the best is not the last.
    wild: dict[str, Any] = {
        "learning_rate": 0.5,
        "num_steps": 6,
        "max_grad_norm": None,
        "checkpoint_every": 1,
    }
    config = new_config("sd", selection="validation-loss", validate_every=1, keep_checkpoints=9, **wild)
    run = tmp_path / "run"
    adapter_dir = train(config, training, texts, run, seed=0, validation_set=held_out)
    losses = validation_losses(run)
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    best = min(losses, key=losses.__getitem__)
    assert best < 6
    checkpoints = run / "checkpoints" / "adapter"
    kept = sorted(tensor.double().sum() for tensor in adapter_weights(adapter_dir).values())
    for step in (best, 6):
        saved = load_file(checkpoints / f"checkpoint-{step}" / "adapter.safetensors").values()
        sums = sorted(tensor.double().sum() for tensor in saved)
        assert (kept == sums) == (step == best)


def test_held_out_images_are_never_trained_on(
    new_config: NewConfig, halves: tuple[ImageDataset, ImageDataset], texts: Texts, tmp_path: Path
) -> None:
    training, held_out = halves
    settings: dict[str, Any] = {"num_steps": 5, "context_dropout": 0.3}
    plain = train(new_config("sd", **settings), training, texts, tmp_path / "plain", seed=0)
    looking = new_config("sd", selection="validation-loss", validate_every=2, **settings)
    run = tmp_path / "looking"
    train(looking, training, texts, run, seed=0, validation_set=held_out)
    # Looking draws from streams of its own: the last step is that of a training that never looked.
    last = load_file(run / "checkpoints" / "adapter" / "checkpoint-5" / "adapter.safetensors")
    reference = load_file(
        tmp_path / "plain" / "checkpoints" / "adapter" / "checkpoint-5" / "adapter.safetensors"
    )
    assert all(torch.equal(last[name], tensor) for name, tensor in reference.items())
    assert list(validation_losses(run)) == [2, 4, 5]
    assert not validation_losses(tmp_path / "plain")
    assert plain.is_dir()


@pytest.mark.parametrize(
    "changes", [{}, {"adapter": {"text_encoder": True, "text_encoder_blocks": 1}}, {"cache": False}]
)
def test_a_stopped_training_chooses_the_same_adapter(
    new_config: NewConfig,
    halves: tuple[ImageDataset, ImageDataset],
    texts: Texts,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    training, held_out = halves
    config = new_config(
        "sd", selection="validation-loss", validate_every=2, learning_rate=0.05, num_steps=7, **changes
    )
    straight = train(config, training, texts, tmp_path / "straight", seed=1, validation_set=held_out)
    asked = iter(range(1, 9))
    with pytest.raises(TrainingInterrupted):
        train(
            config, training, texts, tmp_path / "stopped", seed=1, validation_set=held_out,
            should_stop=lambda: next(asked) == 3,
        )  # fmt: skip
    resumed = train(
        config, training, texts, tmp_path / "stopped", seed=1, validation_set=held_out, resume=True
    )
    first, second = adapter_weights(straight), adapter_weights(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert validation_losses(tmp_path / "straight") == validation_losses(tmp_path / "stopped")


def test_the_held_out_loss_is_the_mean_over_its_turns_without_dropout(
    new_config: NewConfig, prepare: Callable[..., Any]
) -> None:
    config = new_config("sd", adapter={"dropout": 0.5}, context_dropout=0.9, noise_offset=0.5, batch_size=5)
    prepared = prepare(config)
    adapted = {name: part for name, part in prepared.model.components().items() if is_adapted(part)}
    data = replace(prepared.data, record_ids=prepared.data.record_ids[:20])  # the last four are held out
    before = {name: part.training for name, part in prepared.model.denoiser.named_modules()}
    first, second = (held_out_loss(prepared.model, adapted, data, config, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    assert before == {name: part.training for name, part in prepared.model.denoiser.named_modules()}
    assert any(before.values())
    other_batches = config.model_copy(update={"batch_size": NUM_TURNS})
    torch.testing.assert_close(
        held_out_loss(prepared.model, adapted, data, other_batches, seed=3), first, rtol=1e-5, atol=0
    )
    assert not torch.equal(held_out_loss(prepared.model, adapted, data, config, seed=4), first)


def test_images_to_look_at_are_asked_for(
    new_config: NewConfig, phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="needs images with split 'validation'"):
        train(new_config("sd", selection="validation-loss"), phantoms, texts, tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()
