"""Noise schedules, training targets, and the conversions between them.

z_t = sqrt(a_t) x + sqrt(1 - a_t) e, with a_t the cumulative product of 1 - beta  (Ho et al. 2020, eq. 4).

Shapes: B batch, C latent channels, H x W latent size.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v", "sample"]
BetaSchedule = Literal["linear", "scaled-linear"]


@dataclass(frozen=True)
class Diffusion:
    """A discrete diffusion process and what its denoiser predicts.

    Prediction types: `epsilon` is the noise e, `sample` the clean latents x, and
    `v` is sqrt(a_t) e - sqrt(1 - a_t) x  (Salimans & Ho 2022, section 4).
    """

    prediction_type: PredictionType = "epsilon"
    beta_schedule: BetaSchedule = "scaled-linear"
    beta_start: float = 0.002
    beta_end: float = 0.02
    num_timesteps: int = 1000

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """The share of signal variance a_t, [T] float64, falling from almost 1 towards 0."""
        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.num_timesteps, dtype=torch.float64)
        else:
            ends = self.beta_start**0.5, self.beta_end**0.5
            betas = torch.linspace(*ends, self.num_timesteps, dtype=torch.float64).square()
        return (1 - betas).cumprod(dim=0)

    def _scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a_t) and sqrt(1 - a_t), each [B, 1, 1, 1], in the dtype and place of `like`."""
        alphas = self.alphas_cumprod[timesteps.cpu()].view(-1, 1, 1, 1)
        return alphas.sqrt().to(like), (1 - alphas).sqrt().to(like)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return z_t [B, C, H, W] for latents and noise of that shape and timesteps [B]."""
        signal, sigma = self._scales(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser should predict, [B, C, H, W]."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self._scales(timesteps, latents)
        return signal * noise - sigma * latents

    def clean_estimate(self, model_pred: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean latents x that a prediction implies, [B, C, H, W]."""
        if self.prediction_type == "sample":
            return model_pred
        signal, sigma = self._scales(timesteps, noisy_latents)
        if self.prediction_type == "epsilon":
            return (noisy_latents - sigma * model_pred) / signal
        return signal * noisy_latents - sigma * model_pred

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Return a_t / (1 - a_t) for timesteps [B], [B] float64."""
        alphas = self.alphas_cumprod[timesteps.cpu()]
        return alphas / (1 - alphas)
