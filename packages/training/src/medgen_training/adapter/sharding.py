"""A frozen base in shares: a process keeps its part of every weight, and gathers a block's where that block runs.

Adapters stay whole on every process, ordinary tensors, so that optimizer, averaging, checkpoints and saving need
not know. Frozen weights have no gradient: all that is sent is weights, once forwards and once on the way back.
"""

import logging
from collections.abc import Collection

import torch
from medgen_models import TextToImageModel
from medgen_models.adapters import AdapterError, adapter_parameters
from medgen_models.partial_text_encoder import blocks_below
from medgen_models.protocol import ReadsPrompts
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from medgen_training.blocks import outer_blocks

logger = logging.getLogger(__name__)


def base_mesh(num_processes: int, device: torch.device) -> DeviceMesh:
    """Return the processes that share a base, all of them.

    Raises:
        AdapterError: If there is one alone.
    """
    if num_processes == 1:
        raise AdapterError(
            "train.shard_base is true, but this training is one process, which has nobody to share with; start it "
            "with `accelerate launch --multi_gpu --num_processes N` (without GPUs `torchrun --nproc_per_node N`), "
            "or set train.shard_base to false"
        )
    return init_device_mesh(device.type, (num_processes,))


def shard_denoiser(model: TextToImageModel, mesh: DeviceMesh, device: torch.device) -> None:
    """Share the denoiser out, block by block, and put its adapter and all other networks whole on a device.

    Blocks are moved one at a time: a device never holds the whole denoiser.
    """
    shard(model.denoiser, mesh)
    for weight in model.denoiser.parameters():
        if not isinstance(weight, DTensor):
            weight.data = weight.data.to(device)
    for part, module in model.components().items():
        if part != "denoiser":
            module.to(device)


def shard_text_encoders(model: TextToImageModel, mesh: DeviceMesh) -> None:
    """Share out the text encoders, which are on the device already; blocks that rest stay as they are."""
    encoders = model.text_encoders() if isinstance(model, ReadsPrompts) else {}
    for part, module in model.components().items():
        if not part.startswith("text_encoder"):
            continue
        below = encoders[part].below if part in encoders else None
        shard(module, mesh, resting=() if below is None else blocks_below(module, below.num_blocks))


def shard(network: nn.Module, mesh: DeviceMesh, *, resting: Collection[nn.Module] = ()) -> None:
    """Share the frozen weights of a network out over processes, in place.

    Args:
        network: Network whose trainable weights are those of its adapter, if it has one.
        mesh: The processes.
        resting: Blocks that never run, and are left alone.
    """
    kind = type(network)
    left_alone = {weight for block in resting for weight in block.parameters()}
    left_alone |= set(adapter_parameters(network))
    left_alone |= set(network.parameters(recurse=False))  # small, and read outside a pass (mean of the prior)
    for unit in [*gathered_together(network), network]:
        if any(weight not in left_alone for weight in unit.parameters()):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=left_alone)
    # FSDP has made it another class, whose name transformers does not know when hidden states are asked for.
    network.__class__ = kind
    whole, kept = weight_bytes(network)
    logger.info("%s: of %.2f GiB this process keeps %.2f GiB", kind.__name__, whole / 2**30, kept / 2**30)


def gathered_together(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered at a time, inner ones first.

    That is a block; of a block made of blocks, as in U-Nets, each of those, and then what is left of it.
    """
    found: list[nn.Module] = []
    for block in outer_blocks(network):
        inner = outer_blocks(block)
        if any(_has_lists(part) for part in inner):
            found += gathered_together(block)
        found.append(block)
    return found


def weight_bytes(network: nn.Module) -> tuple[int, int]:
    """Return the bytes of a network's weights, and of those on this process."""
    whole = kept = 0
    for weight in network.parameters():
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        whole += weight.numel() * weight.element_size()
        kept += local.numel() * local.element_size()
    return whole, kept


def _has_lists(module: nn.Module) -> bool:
    return any(isinstance(child, nn.ModuleList) for child in module.modules())
