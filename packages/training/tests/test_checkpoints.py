import errno
import json
import os
from pathlib import Path

import pytest
import torch
from medgen_training.checkpoints import (
    CheckpointError,
    load_checkpoint,
    load_latest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)

IDENTITY = {"seed": 1, "config": {"rank": 4, "betas": (0.9, 0.999)}}
TENSORS = {"model": {"weight": torch.arange(6.0).view(2, 3)}, "ema": {"0": torch.ones(2)}}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, TENSORS, IDENTITY, keep=2)
    checkpoint = load_latest_checkpoint(tmp_path, IDENTITY)
    assert checkpoint is not None
    assert checkpoint.step == 7
    for stem, named in TENSORS.items():
        for name, tensor in named.items():
            assert torch.equal(checkpoint.tensors[stem][name], tensor)


def test_newest_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        save_checkpoint(tmp_path, step, TENSORS, IDENTITY, keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]
    checkpoint = load_latest_checkpoint(tmp_path, IDENTITY)
    assert checkpoint is not None
    assert checkpoint.step == 10


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_latest_checkpoint(tmp_path / "nothing", IDENTITY) is None


def test_unfinished_folders_are_never_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, TENSORS, IDENTITY, keep=2)
    half = tmp_path / ".checkpoint-4.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    checkpoint = load_latest_checkpoint(tmp_path, IDENTITY)
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert not half.exists()


def test_a_kill_while_a_checkpoint_is_removed_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal of one of three checkpoints, and of one written twice, stops after its first file."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, TENSORS, IDENTITY, keep=2)

    def killed(folder: Path, *, ignore_errors: bool = False) -> None:
        if folder.exists():
            (folder / "state.json").unlink()
            raise KeyboardInterrupt

    for step in (3, 2):
        with monkeypatch.context() as patch:
            patch.setattr("medgen_training.checkpoints.shutil.rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(tmp_path, step, TENSORS, IDENTITY, keep=2)
        checkpoint = load_latest_checkpoint(tmp_path, IDENTITY)
        assert checkpoint is not None
        assert checkpoint.step == 3
        assert not list(tmp_path.glob(".checkpoint-*"))
        for folder in tmp_path.glob("checkpoint-*"):
            load_checkpoint(folder, IDENTITY)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_a_flipped_byte_names_the_file(tmp_path: Path, name: str) -> None:
    folder = save_checkpoint(tmp_path, 2, TENSORS, IDENTITY, keep=2)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"checkpoint-2/{name}: missing or damaged.*remove this folder"
    ):
        load_latest_checkpoint(tmp_path, IDENTITY)


def test_a_missing_file_and_an_unreadable_state_are_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 2, TENSORS, IDENTITY, keep=2)
    (folder / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: missing or damaged"):
        load_latest_checkpoint(tmp_path, IDENTITY)
    (folder / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json: unreadable"):
        load_latest_checkpoint(tmp_path, IDENTITY)


def test_another_recipe_is_refused_field_by_field(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, TENSORS, IDENTITY, keep=2)
    other = {"seed": 1, "config": {"rank": 8, "betas": (0.9, 0.999)}}
    with pytest.raises(CheckpointError, match=r"another training \(config\.rank: was 4, now 8\)"):
        load_latest_checkpoint(tmp_path, other)


def test_full_disk_leaves_the_old_checkpoint_loadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 2, TENSORS, IDENTITY, keep=1)

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match=r"(?i)no (space|room)|full"):
            save_checkpoint(tmp_path, 4, TENSORS, IDENTITY, keep=1)
    checkpoint = load_latest_checkpoint(tmp_path, IDENTITY)
    assert checkpoint is not None
    assert checkpoint.step == 2


def test_state_is_plain_json_with_a_hash_for_every_file(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 2, TENSORS, IDENTITY, keep=1)
    state = json.loads((folder / "state.json").read_text())
    assert sorted(state["sha256"]) == ["ema.safetensors", "model.safetensors"]
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json", ""}


def test_optimiser_state_survives_as_tensors() -> None:
    def stepped(num_steps: int) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
        for _ in range(num_steps):
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return layer, optimizer

    expected, _ = stepped(4)
    layer, optimizer = stepped(2)
    resumed = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    load_optimizer_tensors(resumed, optimizer_tensors(optimizer))
    for _ in range(2):
        layer(torch.ones(1, 3)).square().sum().backward()
        resumed.step()
        resumed.zero_grad()
    assert torch.equal(layer.weight, expected.weight)
