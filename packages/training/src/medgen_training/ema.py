"""Exponential moving average of weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """A slow copy of a module's parameters.

    average <- d average + (1 - d) parameter,  d = min(decay, (1 + step) / (10 + step))

    The warm-up of d keeps the random start out of the average of a short training.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.averages: list[Tensor] = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter], step: int) -> None:
        """Take in the parameters after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        """Write the averages into parameters of the same shapes."""
        for parameter, average in zip(parameters, self.averages, strict=True):
            parameter.copy_(average)
