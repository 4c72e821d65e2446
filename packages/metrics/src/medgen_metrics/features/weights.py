"""Weight files: reading without running code, and one hash of their content whatever the file format."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medgen_metrics.atomic import write_atomic
from medgen_metrics.features.protocol import MissingWeightsError


def read_weights(weights_file: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pth with tensors only (no pickled code is run).

    Raises:
        MissingWeightsError: If the file does not exist.
        ValueError: If the file is damaged or does not hold a mapping of names to tensors.
    """
    if not weights_file.is_file():
        raise MissingWeightsError(f"{weights_file}: no such weight file")
    try:
        if weights_file.suffix == ".safetensors":
            return load_file(weights_file)
        state = torch.load(weights_file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{weights_file}: is damaged or no weight file ({reason[:200]}); copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{weights_file}: expected names and tensors only, got {type(state).__name__}")
    return dict(state)


def write_weights(weights_file: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors, atomically."""
    write_atomic(weights_file, save({name: tensor.contiguous() for name, tensor in state.items()}))


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Return one hash over names, types, shapes and values, equal for equal weights in any file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
