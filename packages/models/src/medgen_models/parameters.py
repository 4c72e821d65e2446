"""How many parameters a module has, and how many an adapter on it would have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of one module; one that is shared between layers counts once."""

    total: int
    trainable: int
    bytes_by_dtype: dict[torch.dtype, int]
    trainable_bytes: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(self.bytes_by_dtype.values())


def parameter_counts(module: nn.Module, *, without: Sequence[nn.Module] = ()) -> ParameterCounts:
    """Count the parameters of a module, meta device included, without those of some modules in it."""
    left_out = {id(parameter) for each in without for parameter in each.parameters()}
    num_bytes: Counter[torch.dtype] = Counter()
    total = trainable = trainable_bytes = 0
    for parameter in module.parameters():
        if id(parameter) in left_out:
            continue
        total += parameter.numel()
        trainable += parameter.numel() * parameter.requires_grad
        trainable_bytes += parameter.nbytes * parameter.requires_grad
        num_bytes[parameter.dtype] += parameter.nbytes
    return ParameterCounts(total, trainable, dict(num_bytes), trainable_bytes)


@dataclass(frozen=True)
class LoraSize:
    """Size of a low-rank adapter."""

    num_modules: int
    num_parameters: int


def lora_size(module: nn.Module, targets: Sequence[str], rank: int) -> LoraSize:
    """Count the adapter that low-rank adaptation would add, without adding it.

    A layer W [out, in] gets A [rank, in] and B [out, rank]   (Hu et al. 2021, section 4.1); of a convolution, A
    has the kernel and B is 1 x 1.

    Args:
        module: The module to adapt; may lie on the meta device.
        targets: Names of layers, or the last components of their names.
        rank: Rank of the adapter.

    Raises:
        ValueError: If a target is neither linear nor a 2-D convolution.
    """
    sizes = [
        _num_adapter_values(name, layer, rank)
        for name, layer in module.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    ]
    return LoraSize(len(sizes), sum(sizes))


def _num_adapter_values(name: str, layer: nn.Module, rank: int) -> int:
    match layer:
        case nn.Linear():
            return rank * (layer.in_features + layer.out_features)
        case nn.Conv2d():
            height, width = layer.kernel_size
            return rank * (layer.in_channels * height * width + layer.out_channels)
        case _:
            raise ValueError(f"{name} is a {type(layer).__name__}; adapters fit nn.Linear and nn.Conv2d only")
