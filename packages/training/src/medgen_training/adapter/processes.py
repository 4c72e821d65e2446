"""What the processes of one training tell each other: gradients, figures, and whether to stop."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from medgen_training.interruption import StopRequest


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Average the gradients of all processes, as one message: adapters are small."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def averaged(figures: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Average figures over processes: all see the same, so all stop at one that is no number."""
    if accelerator.num_processes == 1:
        return figures
    together = accelerator.reduce(torch.stack([*figures.values()]), reduction="mean")
    return dict(zip(figures, together.unbind(), strict=True))


def all_stop(should_stop: StopRequest | None, accelerator: Accelerator, *, looking: bool) -> bool:
    """Say whether to stop; processes ask each other, at log steps only, since an answer is waited for."""
    asked = should_stop is not None and should_stop()
    if accelerator.num_processes == 1:
        return asked
    if not looking:
        return False
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)) > 0)
