"""What is random about an image's turn in training: a function of the seed and of how many images came before.

Every turn has generators of its own, on the CPU. How the images of an optimiser step are spread over passes and
processes therefore changes nothing but the order of sums: two processes, two accumulated passes and one batch of
twice the size train the same adapter.

Shapes: B images of one pass of one process, C latent channels, H x W latent size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from medgen_models import TextToImageModel
from medgen_models.diffusion import FlowMatching
from torch import Tensor

from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.cache import PromptTable
from medgen_training.order import batch_rows, stream_generator


@dataclass(frozen=True)
class Turns:
    """Images that are trained together: which they are, and the how-manieth of the whole training."""

    images: Tensor  # [B] rows of the data set
    numbers: list[int]  # B, from 0


@dataclass(frozen=True)
class Draws:
    """The random part of B turns, on the CPU."""

    prompt_rows: Tensor  # [B]
    latent_noise: Tensor  # [B, C, H, W], for a sample of the image's posterior
    noise: Tensor  # [B, C, H, W]
    timesteps: Tensor  # [B]


def turns_of_step(
    step: int,
    config: AdapterTrainConfig,
    num_images: int,
    *,
    seed: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[Turns]:
    """Yield the images of every pass of one process in one optimiser step.

    Args:
        step: Optimiser step, from 0.
        config: Batch size and accumulation.
        num_images: Images in the data set.
        seed: Seed of the order.
        process_index: Which process this is.
        num_processes: Processes that share the step.
    """
    per_pass = config.batch_size * num_processes
    for position in range(step * config.accumulation, (step + 1) * config.accumulation):
        rows = batch_rows(position, per_pass, num_images, seed=seed)
        own = range(process_index, per_pass, num_processes)
        yield Turns(rows[list(own)], [position * per_pass + index for index in own])


def draw_turns(
    model: TextToImageModel, prompts: PromptTable, turns: Turns, config: AdapterTrainConfig, *, seed: int
) -> Draws:
    """Draw prompts, noises and noise levels of B turns."""
    prompt_rows, latent_noise, noise, timesteps = [], [], [], []
    for image, number in zip(turns.images.split(1), turns.numbers, strict=True):
        generator = stream_generator(seed, "adapter", number)
        prompt_rows.append(prompts.draw_rows(image, config.context_dropout, generator))
        latent_noise.append(torch.randn(1, *model.latent_shape, generator=generator))
        drawn = torch.randn(1, *model.latent_shape, generator=generator)
        if config.noise_offset:
            channels = model.latent_shape[0]
            drawn += config.noise_offset * torch.randn(1, channels, 1, 1, generator=generator)
        noise.append(drawn)
        timesteps.append(_draw_timestep(model, config, generator))
    return Draws(torch.cat(prompt_rows), torch.cat(latent_noise), torch.cat(noise), torch.cat(timesteps))


def _draw_timestep(model: TextToImageModel, config: AdapterTrainConfig, generator: torch.Generator) -> Tensor:
    if config.flow_levels is None:
        return model.diffusion.draw_timesteps(1, generator)
    assert isinstance(model.diffusion, FlowMatching)
    return config.flow_levels.draw_timesteps(model.diffusion, 1, generator)


def draw_colour_turns(
    model: TextToImageModel, prompts: PromptTable, turns: Turns, *, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw prompt rows [B] and noise [B, C, H, W] of the images that the colour loss samples."""
    prompt_rows, noise = [], []
    for image, number in zip(turns.images.split(1), turns.numbers, strict=True):
        generator = stream_generator(seed, "colour", number)
        prompt_rows.append(prompts.draw_rows(image, 0.0, generator))
        noise.append(torch.randn(1, *model.latent_shape, generator=generator))
    return torch.cat(prompt_rows), torch.cat(noise)
