"""Which step's adapter is kept: the loss of held-out images at noise that never changes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from medgen_models import TextToImageModel
from torch import Tensor, nn

from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.adapter.draws import Turns
from medgen_training.adapter.losses import AdapterData, draw_losses
from medgen_training.order import stream_seed

NUM_TURNS = 64  # noises and levels looked at; held-out images come in turn, some twice if there are fewer


@torch.no_grad()
def held_out_loss(
    model: TextToImageModel,
    adapted: Mapping[str, nn.Module],
    data: AdapterData,
    config: AdapterTrainConfig,
    *,
    seed: int,
) -> Tensor:
    """Return the mean loss of the held-out images with their own prompts, a scalar.

    Noise, levels and prompts are the same at every call of a training. Dropout is off.
    """
    held_out = torch.arange(len(data.record_ids), len(data.prompts.rows_of_image))
    images = held_out[torch.arange(NUM_TURNS) % len(held_out)]
    fixed = config.model_copy(update={"context_dropout": 0.0, "noise_offset": 0.0})
    fixed_seed = stream_seed(seed, "held out")
    total = torch.zeros((), device=model.device)
    with _without_dropout(adapted):
        for start in range(0, NUM_TURNS, config.batch_size):
            numbers = [*range(start, min(start + config.batch_size, NUM_TURNS))]
            total += draw_losses(model, data, fixed, Turns(images[numbers], numbers), seed=fixed_seed).sum()
    return total / NUM_TURNS


@contextmanager
def _without_dropout(adapted: Mapping[str, nn.Module]) -> Iterator[None]:
    training = [part for module in adapted.values() for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
