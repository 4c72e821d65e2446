"""The weights of the step at which held-out images had the lowest loss."""

import torch
from torch import Tensor, nn

from medgen_training.checkpoints import laid_out_like


class BestWeights:
    """The weights with the lowest figure so far."""

    def __init__(self) -> None:
        self.figure = float("inf")
        self.weights: list[Tensor] | None = None

    def offer(self, weights: list[Tensor], figure: float) -> None:
        """Keep a copy of the weights if their figure is lower than any before."""
        if figure < self.figure:
            self.figure = figure
            self.weights = [tensor.clone() for tensor in weights]

    def copy_to(self, parameters: list[nn.Parameter]) -> None:
        """Write the best weights into parameters."""
        assert self.weights is not None
        with torch.no_grad():
            for parameter, value in zip(parameters, self.weights, strict=True):
                parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold."""
        figure = {"figure": torch.tensor(self.figure, dtype=torch.float64)}
        return figure if self.weights is None else figure | numbered(self.weights)

    def restore(self, tensors: dict[str, Tensor], parameters: list[nn.Parameter]) -> None:
        """Take back what `tensors` gave."""
        self.figure = float(tensors["figure"])
        weights = {name: tensor for name, tensor in tensors.items() if name != "figure"}
        if weights:
            pairs = zip(parameters, in_order(weights), strict=True)
            self.weights = [laid_out_like(parameter, tensor) for parameter, tensor in pairs]


def numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    """Name tensors by their place, as a checkpoint wants them."""
    return {str(index): tensor for index, tensor in enumerate(tensors)}


def in_order(tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return the tensors that `numbered` named."""
    return [tensors[str(index)] for index in range(len(tensors))]
