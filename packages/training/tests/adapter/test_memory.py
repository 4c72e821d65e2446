import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_models.adapters import AdapterError
from medgen_training import AdapterTrainConfig, train
from medgen_training.adapter import memory
from medgen_training.adapter.draws import Turns
from medgen_training.adapter.losses import draw_losses
from medgen_training.adapter.memory import free_bytes, must_checkpoint, saved_bytes_of_one_image
from medgen_training.blocks import checkpoint_blocks
from safetensors.torch import load_file


def test_one_image_foretells_what_a_batch_keeps(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config(adapter={"text_encoder": True}))
    addresses = {
        parameter.untyped_storage().data_ptr()
        for module in prepared.model.components().values()
        for parameter in module.parameters()
    }
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        draw_losses(
            prepared.model, prepared.data, prepared.config, Turns(torch.arange(4), list(range(4))), seed=0
        )
    batch = sum(kept[address].untyped_storage().nbytes() for address in kept.keys() - addresses)
    one = saved_bytes_of_one_image(prepared.model, prepared.data, prepared.config)
    assert batch == pytest.approx(4 * one, rel=0.1)


def test_checkpointed_blocks_keep_less(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config())
    plain = saved_bytes_of_one_image(prepared.model, prepared.data, prepared.config)
    checkpoint_blocks(prepared.model.denoiser)
    assert saved_bytes_of_one_image(prepared.model, prepared.data, prepared.config) < 0.6 * plain


def test_measuring_leaves_the_global_generator_alone(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config(adapter={"dropout": 0.5}))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    saved_bytes_of_one_image(prepared.model, prepared.data, prepared.config)
    assert torch.equal(before, torch.random.get_rng_state())


def test_memory_decides_and_guidance_of_the_colour_loss_counts_double(
    new_config: Callable[..., AdapterTrainConfig],
    prepare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = prepare(new_config())
    one = saved_bytes_of_one_image(prepared.model, prepared.data, prepared.config)
    with_colours = AdapterTrainConfig.model_validate(prepared.config.model_dump() | {"hldf": {}})
    decided = {}
    for images_that_fit in (1, 3, 5):
        monkeypatch.setattr(memory, "free_bytes", lambda device, n=images_that_fit: int(n * one / 0.92) + 1)
        decided[images_that_fit] = [
            must_checkpoint(prepared.model, prepared.data, config)
            for config in (prepared.config, with_colours)
        ]
    assert decided == {1: [True, True], 3: [False, True], 5: [False, False]}  # batch 2, and 4 with guidance


def test_a_device_too_small_for_one_image_is_not_the_end(
    new_config: Callable[..., AdapterTrainConfig],
    prepare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = prepare(new_config())

    def too_much(*args: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory, "saved_bytes_of_one_image", too_much)
    assert must_checkpoint(prepared.model, prepared.data, prepared.config)


def test_a_machine_with_room_keeps_its_activations() -> None:
    assert free_bytes(torch.device("cpu")) > 2**26


def test_checkpointing_chosen_by_memory_trains_the_same_adapter(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = new_config(num_steps=3, hldf={"every_steps": 2, "num_inference_steps": 2})
    adapters = []
    for name, free in (("roomy", 2**40), ("tight", 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        with caplog.at_level(logging.INFO, logger="medgen_training"):
            folder = train(config, phantoms, texts, tmp_path / name, seed=0)
        adapters.append(load_file(folder / "denoiser" / "adapter_model.safetensors"))
    messages = [record.getMessage() for record in caplog.records if "checkpointed" in record.getMessage()]
    assert ["blocks are not" in message for message in messages] == [True, False]
    for name, tensor in adapters[0].items():
        assert torch.equal(tensor, adapters[1][name])


def test_targets_that_fit_nothing_are_refused_before_anything_is_measured(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    with pytest.raises(AdapterError, match="'to_z' matches no module"):
        train(new_config(adapter={"targets": ["to_z"]}), phantoms, texts, tmp_path / "run", seed=0)
