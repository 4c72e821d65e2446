"""Prompts and seeds to images, for any family.

An image depends on its prompt and its seed alone: noise comes from a generator of its own on the CPU, prompts are
encoded at a fixed length, and every pass has the same batch size, the last one being padded.

Shapes: B batch, C latent channels, H x W latent size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medgen_models.protocol import Cascade, Conditioning, TextToImageModel
from medgen_models.solver import SolverName, SolverStep, solver_steps


class SamplingConfig(BaseModel):
    """How images are drawn.

    `guidance_scale` g mixes predictions as uncond + g (cond - uncond)  (Ho & Salimans 2022); MSDM's code writes
    the same with g + 1, so its 3.5 is 4.5 here. g = 1 needs no unconditional pass. `guided_channels` mixes only the
    first so many latent channels and keeps the prompt's own prediction in the others: DiT's code has 3 of 4.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    solver: SolverName = "dpm-solver++"
    num_inference_steps: int = Field(default=20, ge=1, le=1000)
    guidance_scale: float = Field(default=3.0, ge=0)
    guided_channels: int | None = Field(default=None, ge=1)
    eta: float = Field(default=0.0, ge=0, le=1)
    batch_size: int = Field(default=16, ge=1)
    prior_num_inference_steps: int = Field(default=25, ge=1, le=1000)
    prior_guidance_scale: float = Field(default=4.0, ge=0)

    @model_validator(mode="after")
    def _eta_belongs_to_ddim(self) -> "SamplingConfig":
        if self.eta and self.solver != "ddim":
            raise ValueError(f"eta = {self.eta} has no meaning for {self.solver}; use solver ddim, or eta 0")
        return self


@dataclass(frozen=True)
class SamplingJob:
    """One image to draw."""

    prompt: str
    seed: int


class JobNoise:
    """The noise of a batch of jobs: one generator per image, on the CPU, whatever the device."""

    def __init__(self, seeds: Sequence[int], latent_shape: tuple[int, int, int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.latent_shape = latent_shape

    def draw(self) -> Tensor:
        """Return the next standard normal noise of every image, [B, C, H, W]."""
        return torch.stack([torch.randn(self.latent_shape, generator=g) for g in self.generators])

    def reshaped(self, latent_shape: tuple[int, int, int]) -> "JobNoise":
        """Return the rest of the same streams, drawn in another shape."""
        rest = JobNoise((), latent_shape)
        rest.generators = self.generators
        return rest


@torch.no_grad()
def sample_images(
    model: TextToImageModel, jobs: Sequence[SamplingJob], config: SamplingConfig
) -> Iterator[np.ndarray]:
    """Draw the images of jobs lazily, in order; unique prompts are encoded once.

    Yields:
        Images, [H, W, 3] uint8, one per job.
    """
    reader = model.prior if isinstance(model, Cascade) else model
    prompts = list(dict.fromkeys(job.prompt for job in jobs))
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    # One prompt a pass: its embedding is then the same in every shard.
    encoded = Conditioning.cat([reader.encode_prompts([prompt]) for prompt in ["", *prompts]])
    for start in range(0, len(jobs), config.batch_size):
        batch = jobs[start : start + config.batch_size]
        padded = [*batch, *[batch[-1]] * (config.batch_size - len(batch))]
        conditioning = encoded[[1 + row_of[job.prompt] for job in padded]]
        unconditional = encoded[[0] * len(padded)]
        noise = JobNoise([job.seed for job in padded], reader.latent_shape)
        if isinstance(model, Cascade):
            prior_latents = sample_latents(
                model.prior, noise, conditioning, unconditional, _settings_of_prior(config)
            )
            conditioning, unconditional = model.condition_on(prior_latents), model.unconditional(len(padded))
            noise = noise.reshaped(model.latent_shape)
        latents = sample_latents(model, noise, conditioning, unconditional, config)
        pixel_values = model.decode_latents(latents)[: len(batch)]
        yield from to_uint8(pixel_values)


def _settings_of_prior(config: SamplingConfig) -> SamplingConfig:
    return config.model_copy(
        update={
            "num_inference_steps": config.prior_num_inference_steps,
            "guidance_scale": config.prior_guidance_scale,
            "guided_channels": None,
        }
    )


@torch.no_grad()
def sample_latents(
    model: TextToImageModel,
    noise: JobNoise,
    conditioning: Conditioning,
    unconditional: Conditioning,
    config: SamplingConfig,
) -> Tensor:
    """Run the solver from pure noise to clean latents, [B, C, H, W]."""
    steps = solver_steps(config.solver, model.diffusion, config.num_inference_steps, config.eta)
    latents = noise.draw().to(model.device)
    both = Conditioning.cat([unconditional, conditioning])
    previous_estimate: Tensor | None = None
    for step in steps:
        model_pred = guided_prediction(
            model,
            latents,
            step.timestep,
            both,
            config.guidance_scale,
            previous_estimate,
            guided_channels=config.guided_channels,
        )
        timesteps = torch.full((len(latents),), step.timestep)
        estimate = model.diffusion.clean_estimate(model_pred, latents, timesteps)
        latents = apply_step(step, latents, estimate, previous_estimate, noise)
        previous_estimate = estimate
    return latents


def guided_prediction(
    model: TextToImageModel,
    latents: Tensor,
    timestep: float,
    both: Conditioning,
    guidance_scale: float,
    previous_estimate: Tensor | None,
    *,
    guided_channels: int | None = None,
) -> Tensor:
    """Return uncond + g (cond - uncond), [B, C, H, W]; `both` holds B unconditional, then B prompts.

    Channels from `guided_channels` on, where it is given, are those of cond.
    """
    num_images = len(latents)
    estimate = previous_estimate if model.self_conditioning else None
    if model.embeds_guidance:
        timesteps = torch.full((num_images,), timestep, device=latents.device)
        return model.denoise(latents, timesteps, both[num_images:].with_guidance(guidance_scale), estimate)
    if guidance_scale == 1:
        timesteps = torch.full((num_images,), timestep, device=latents.device)
        return model.denoise(latents, timesteps, both[num_images:], estimate)
    timesteps = torch.full((2 * num_images,), timestep, device=latents.device)
    twice = None if estimate is None else torch.cat([estimate, estimate])
    unconditional, conditional = model.denoise(torch.cat([latents, latents]), timesteps, both, twice).chunk(2)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    if guided_channels is None:
        return guided
    return torch.cat([guided[:, :guided_channels], conditional[:, guided_channels:]], dim=1)


def apply_step(
    step: SolverStep, latents: Tensor, estimate: Tensor, previous_estimate: Tensor | None, noise: JobNoise
) -> Tensor:
    """Return the latents of the next lower noise level, [B, C, H, W]."""
    latents = step.c_latents * latents + step.c_estimate * estimate
    if step.c_previous and previous_estimate is not None:
        latents = latents + step.c_previous * previous_estimate
    if step.c_noise:
        latents = latents + step.c_noise * noise.draw().to(latents)
    return latents


def to_uint8(pixel_values: Tensor) -> np.ndarray:
    """Turn images [B, 3, H, W] in [-1, 1] into [B, H, W, 3] uint8: clamped, then rounded to the nearest level."""
    levels = (pixel_values.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
