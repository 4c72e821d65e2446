"""What a trainer, a sampler or a cache may ask of any generator family.

Shapes: B batch, C latent channels, H x W latent size, L prompt tokens, T width of the text encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medgen_models.diffusion import Diffusion


@dataclass(frozen=True)
class LatentMoments:
    """Gaussian posterior of the latents of images."""

    mean: Tensor  # [B, C, H, W]
    std: Tensor  # [B, C, H, W]

    def sample(self, noise: Tensor) -> Tensor:
        """Return latents [B, C, H, W] drawn with standard normal noise of the same shape."""
        return self.mean + self.std * noise


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, as the denoiser wants them."""

    prompt_embeds: Tensor  # [B, L, T]
    prompt_mask: Tensor  # [B, L] bool, True where a token counts

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, rows: Tensor | list[int] | slice) -> "Conditioning":
        return Conditioning(self.prompt_embeds[rows], self.prompt_mask[rows])

    def to(self, device: torch.device) -> "Conditioning":
        """Return the same conditioning on a device."""
        return Conditioning(self.prompt_embeds.to(device), self.prompt_mask.to(device))

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Join conditionings along the batch."""
        return Conditioning(
            torch.cat([part.prompt_embeds for part in parts]), torch.cat([part.prompt_mask for part in parts])
        )


class TextToImageModel(Protocol):
    """A generator family: text and images in, predictions and images out.

    `image_size` is the side of the square images in pixels, `latent_shape` is [C, H, W], and
    `self_conditioning` says whether `denoise` takes an earlier estimate of the clean latents.
    """

    diffusion: Diffusion
    image_size: int
    latent_shape: tuple[int, int, int]
    self_conditioning: bool

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts; the result for one prompt does not depend on the others."""
        ...

    def encode_images(self, pixel_values: Tensor) -> LatentMoments:
        """Encode images [B, 3, H, W] in [-1, 1]."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents [B, C, H, W] to images [B, 3, H, W], nominally in [-1, 1], not clamped."""
        ...

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict what `diffusion` defines, [B, C, H, W], from noisy latents at timesteps [B]."""
        ...
