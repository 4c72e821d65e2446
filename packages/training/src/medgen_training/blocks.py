"""The repeated blocks of a denoiser: checkpointed one by one, or compiled one by one."""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def outer_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of a network: what stands in its outermost lists, in order."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else outer_blocks(child)
    return [block for block in found if any(True for _ in block.parameters())]


def checkpoint_blocks(module: Any) -> None:
    """Make every block keep its inputs alone, and compute its activations again on the way back.

    diffusers knows how for most denoisers; for those that refuse (Hunyuan-DiT, Kandinsky 3, priors) the blocks are
    wrapped here.
    """
    if getattr(module, "_supports_gradient_checkpointing", False):
        module.enable_gradient_checkpointing()
        return
    for block in outer_blocks(module):
        block.forward = _checkpointed(block.forward)


class CompilerError(ValueError):
    """`compile_blocks` is wanted where torch cannot compile."""


def check_compiler(device: torch.device) -> None:
    """Compile one small function, so that what is missing shows before images are encoded.

    Args:
        device: Where the blocks will run; a CPU needs a C++ compiler, a GPU needs Triton.

    Raises:
        CompilerError: If torch cannot compile for this device here.
    """
    compiled = torch.compile(lambda numbers: (numbers + 1).sin())
    try:
        compiled(torch.zeros(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise CompilerError(
            f"train.compile_blocks: torch cannot compile for {device.type} on this machine ({lines[0]}); "
            "a CPU needs a C++ compiler and a GPU needs Triton; install it, or set compile_blocks: false"
        ) from error


def compile_blocks(module: nn.Module) -> None:
    """Compile every block in place; blocks of one kind share their code."""
    for block in outer_blocks(module):
        block.compile(fullgraph=False)


def _checkpointed(forward: Any) -> Any:
    @functools.wraps(forward)
    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return run
