"""Random weights that are a function of a seed, none of them left at zero."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def random_weights(build: Callable[[], Module], seed: int) -> Module:
    """Build a network in eval mode, with what its initialiser leaves at zero made random too.

    A test wants an output, and a gradient, that depends on every weight. The global generator is put back.

    Args:
        build: Makes the network, e.g. `lambda: T5EncoderModel(config)`.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator
        module = build().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module
