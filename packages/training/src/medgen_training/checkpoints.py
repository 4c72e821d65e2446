"""Checkpoints that survive a kill at any moment.

A checkpoint is written in a folder aside, every file flushed to disk, then renamed; its file `complete` is the last
thing written. `state.json` holds the hash of every file, so a flipped byte is found before it is used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from medgen_data.atomic import write_bytes_atomic, write_json_atomic
from safetensors.torch import load, save
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on: tensors by file, and facts."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    identity: dict[str, Any]


def save_checkpoint(
    checkpoints_dir: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    identity: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Write `checkpoint-<step>` in one piece, then remove all but the newest `keep`.

    Args:
        checkpoints_dir: Folder of all checkpoints of one training.
        step: Optimiser steps done.
        tensors: For each file stem, its named tensors.
        identity: What the training is: config, data, seed; JSON values.
        keep: How many checkpoints stay, at least 1.
    """
    final_dir = checkpoints_dir / f"checkpoint-{step}"
    aside = checkpoints_dir / f".checkpoint-{step}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    hashes = {}
    for stem, named in tensors.items():
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
        write_bytes_atomic(aside / f"{stem}.safetensors", content)
        hashes[f"{stem}.safetensors"] = hashlib.sha256(content).hexdigest()
    write_json_atomic(aside / "state.json", {"step": step, "identity": dict(identity), "sha256": hashes})
    write_bytes_atomic(aside / "complete", b"")
    if final_dir.exists():  # left by a run that was killed between the rename and its next step
        _remove(final_dir)
    aside.rename(final_dir)
    _flush_folder(checkpoints_dir)
    for old in _checkpoint_dirs(checkpoints_dir)[:-keep]:
        _remove(old)
    return final_dir


def _remove(checkpoint_dir: Path) -> None:
    """Delete a checkpoint so that a kill half way leaves nothing that looks like one."""
    doomed = checkpoint_dir.with_name(f".{checkpoint_dir.name}.old.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint_dir.rename(doomed)
    shutil.rmtree(doomed)


def load_latest_checkpoint(checkpoints_dir: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Load and verify the newest checkpoint, or return None if there is none yet.

    Raises:
        CheckpointError: If a file is damaged, or if the checkpoint is of another training.
    """
    for leftover in checkpoints_dir.glob(".checkpoint-*.partial"):
        shutil.rmtree(leftover)
    folders = _checkpoint_dirs(checkpoints_dir)
    return load_checkpoint(folders[-1], identity) if folders else None


def load_checkpoint(checkpoint_dir: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Load one checkpoint, every byte checked.

    Raises:
        CheckpointError: If a file is damaged, or if the checkpoint is of another training.
    """
    advice = "remove this folder to go on from the checkpoint before it"
    try:
        state = json.loads((checkpoint_dir / "state.json").read_text(encoding="utf-8"))
        step, expected_hashes, saved_identity = state["step"], state["sha256"], state["identity"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint_dir / 'state.json'}: unreadable ({error}); {advice}") from error
    check_identity(saved_identity, identity, str(checkpoint_dir))
    tensors = {}
    for name, expected in expected_hashes.items():
        file = checkpoint_dir / name
        content = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(content).hexdigest() != expected:
            raise CheckpointError(
                f"{file}: missing or damaged (its sha256 is not the recorded one); {advice}"
            )
        tensors[file.stem] = load(content)
    return Checkpoint(step, tensors, saved_identity)


def check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    """Refuse to go on with something that was begun under other settings.

    Raises:
        CheckpointError: Naming every field that differs, with both values.
    """
    saved_fields, wanted_fields = _flatten(saved), _flatten(wanted)
    differences = [
        f"{name}: was {saved_fields.get(name)!r}, now {wanted_fields.get(name)!r}"
        for name in sorted(saved_fields.keys() | wanted_fields.keys())
        if saved_fields.get(name) != wanted_fields.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{place} belongs to another training ({'; '.join(differences[:5])}"
            f"{'; ...' if len(differences) > 5 else ''}); restore the settings or choose another folder"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as named tensors, `<parameter>.<entry>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entries in state.items()
        for name, value in entries.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put named tensors back into an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if value.shape == parameter.shape:
                entries[name] = laid_out_like(parameter, value)


def laid_out_like(parameter: Tensor, saved: Tensor) -> Tensor:
    """Return a saved tensor with the device, dtype and memory layout of its parameter.

    The layout decides the order of sums, and with it the last bit of a resumed training.
    """
    return torch.empty_like(parameter, requires_grad=False).copy_(saved)


def _checkpoint_dirs(checkpoints_dir: Path) -> list[Path]:
    found = [d for d in checkpoints_dir.glob("checkpoint-*") if (d / "complete").is_file()]
    return sorted(found, key=lambda folder: int(folder.name.rsplit("-", 1)[1]))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= _flatten(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(entry) if isinstance(entry, tuple) else entry
    return flat
