"""Parts that several families have in common: an autoencoder with a Gaussian posterior, one text encoder.

Each is mixed into the class of a family, which says in its `__init__` what the parts are.

Shapes: B batch, C latent channels, H x W image or latent size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medgen_models.autoencoders import decode_with, encode_with
from medgen_models.protocol import LatentMoments
from medgen_models.text_encoder import PromptEncoder


class GaussianLatents:
    """Pixels and latents of a family whose autoencoder is an `AutoencoderKL`.

    Attributes:
        vae: Autoencoder.
        denoiser: Network that is trained or adapted.
    """

    self_conditioning = False
    decodes_to_pixels = True
    vae: Any
    denoiser: Any

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        return self.denoiser.device

    def encode_images(self, pixel_values: Tensor) -> LatentMoments:
        """Encode images [B, 3, H, W] in [-1, 1] to moments, shifted and scaled as the denoiser wants them."""
        return encode_with(self.vae, pixel_values)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents [B, C, H, W] to images [B, 3, H, W], not clamped."""
        return decode_with(self.vae, latents)


class OneTextEncoder:
    """Prompts of a family that reads them with one text encoder.

    Attributes:
        prompt_encoder: Text encoder with its tokenizer.
    """

    prompt_encoder: PromptEncoder

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens."""
        return self.prompt_encoder.max_tokens

    def text_encoders(self) -> dict[str, PromptEncoder]:
        """Return the text encoders by part name."""
        return {"text_encoder": self.prompt_encoder}

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens, before anything is cut."""
        return self.prompt_encoder.num_tokens(prompts)
