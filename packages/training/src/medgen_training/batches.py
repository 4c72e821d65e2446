"""Where a denoiser's batches come from: the cache, or the encoders at every step.

Shapes: B batch, C latent channels, H x W latent size.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from medgen_models import Conditioning, LatentMoments, TextToImageModel
from torch import Tensor

from medgen_training.augmentation import NO_JITTER, ColourJitter
from medgen_training.cache import to_pixel_values


class BatchSource(Protocol):
    """Latents and encoded prompts of chosen images and prompts."""

    def __call__(
        self, images: Tensor, prompts: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Conditioning]:
        """Return latents [B, C, H, W] of image rows [B], and the prompts of prompt rows [B]."""
        ...


@dataclass(frozen=True)
class CachedBatches:
    """Draws fresh latents from cached moments, of a random variant of each image."""

    moments: LatentMoments  # mean and std, each [V, N, C, H, W]
    conditioning: Conditioning  # P rows
    device: torch.device

    def __call__(
        self, images: Tensor, prompts: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Conditioning]:
        """Return latents [B, C, H, W] of image rows [B], and the prompts of prompt rows [B]."""
        variants = torch.randint(len(self.moments.mean), images.shape, generator=generator)
        chosen = LatentMoments(self.moments.mean[variants, images], self.moments.std[variants, images])
        latents = chosen.sample(torch.randn(chosen.mean.shape, generator=generator))
        return latents.to(self.device), self.conditioning[prompts].to(self.device)


@dataclass(frozen=True)
class LiveBatches:
    """Encodes pixels and prompts at every step; slower, but every step may jitter the colours anew."""

    model: TextToImageModel
    images: Tensor  # [N, 3, S, S] uint8
    prompts: tuple[str, ...]
    jitter: ColourJitter = NO_JITTER

    @torch.no_grad()
    def __call__(
        self, images: Tensor, prompts: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Conditioning]:
        """Return latents [B, C, H, W] of image rows [B], and the prompts of prompt rows [B]."""
        pixel_values = self.jitter(to_pixel_values(self.images[images], self.model.device), generator)
        moments = self.model.encode_images(pixel_values)
        noise = torch.randn(moments.mean.shape, generator=generator).to(moments.mean)
        return moments.sample(noise), self.model.encode_prompts(
            [self.prompts[row] for row in prompts.tolist()]
        )
