"""Noise schedules, training targets, and the conversions between them.

Diffusion:      z_t = sqrt(a_t) x + sqrt(1 - a_t) e, a_t the cumulative product of 1 - beta  (Ho et al. 2020, eq. 4)
Flow matching:  z_s = (1 - s) x + s e                              (Lipman et al. 2023; Liu et al. 2023)

Shapes: B batch, C latent channels, H x W latent size.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v", "sample"]
BetaSchedule = Literal["linear", "scaled-linear", "cosine"]


@dataclass(frozen=True)
class Diffusion:
    """A discrete diffusion process and what its denoiser predicts.

    The betas run from `beta_start` to `beta_end`; the cosine schedule has neither.
    Prediction types: `epsilon` is the noise e, `sample` the clean latents x, and
    `v` is sqrt(a_t) e - sqrt(1 - a_t) x  (Salimans & Ho 2022, section 4).
    """

    prediction_type: PredictionType = "epsilon"
    beta_schedule: BetaSchedule = "scaled-linear"
    beta_start: float = 0.002
    beta_end: float = 0.02
    num_timesteps: int = 1000

    def draw_timesteps(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draw uniform timesteps, [B] integers."""
        return torch.randint(self.num_timesteps, (num_images,), generator=generator)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """The share of signal variance a_t, [T] float64, falling from almost 1 towards 0."""
        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.num_timesteps, dtype=torch.float64)
        elif self.beta_schedule == "cosine":  # Nichol & Dhariwal 2021, eq. 17, betas clipped at 0.999
            times = torch.linspace(0, 1, self.num_timesteps + 1, dtype=torch.float64)
            signal = ((times + 0.008) / 1.008 * torch.pi / 2).cos().square()
            betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
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


@dataclass(frozen=True)
class FlowMatching:
    """Straight paths from noise to images; the denoiser predicts their velocity e - x.

    Timesteps are T times the noise level s in (0, 1], as floats. `shift` moves the levels of a sampler towards
    noise, s -> shift s / (1 + (shift - 1) s)  (Esser et al. 2024, eq. 23); training draws them unshifted.
    """

    num_timesteps: int = 1000
    shift: float = 1.0

    def draw_timesteps(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draw uniform timesteps out of 1 .. T, [B] float32."""
        return torch.randint(1, self.num_timesteps + 1, (num_images,), generator=generator).float()

    def sigmas(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """Return the noise level of timesteps [B], [B, 1, 1, 1], in the dtype and place of `like`."""
        return (
            (timesteps.to(like.device, torch.float64) / self.num_timesteps).to(like.dtype).view(-1, 1, 1, 1)
        )

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return z_s [B, C, H, W] for latents and noise of that shape and timesteps [B]."""
        sigmas = self.sigmas(timesteps, latents)
        return (1 - sigmas) * latents + sigmas * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity e - x, [B, C, H, W]; the same at every timestep."""
        del timesteps
        return noise - latents

    def clean_estimate(self, model_pred: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean latents x that a velocity implies, [B, C, H, W]."""
        return noisy_latents - self.sigmas(timesteps, noisy_latents) * model_pred

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Return ((1 - s) / s)^2 for timesteps [B], [B] float64."""
        sigmas = timesteps.cpu().double() / self.num_timesteps
        return ((1 - sigmas) / sigmas).square()


NoiseProcess = Diffusion | FlowMatching
