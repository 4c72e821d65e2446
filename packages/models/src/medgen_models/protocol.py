"""What a trainer, a sampler or a cache may ask of any generator family.

Shapes: B batch, C latent channels, H x W latent size, L prompt tokens, T width of the text encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medgen_models.diffusion import NoiseProcess

if TYPE_CHECKING:
    from medgen_models.text_encoder import PromptEncoder


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
    """Encoded prompts, as the denoiser wants them; what a family does not use is None."""

    prompt_embeds: Tensor  # [B, L, T]
    prompt_mask: Tensor  # [B, L] bool, True where a token counts
    pooled_prompt_embeds: Tensor | None = None  # [B, P]
    second_prompt_embeds: Tensor | None = None  # [B, L2, T2], of a second text encoder with its own tokens
    second_prompt_mask: Tensor | None = None  # [B, L2] bool
    guidance: Tensor | None = None  # [B] guidance scale, where the denoiser takes it as an input

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, rows: Tensor | list[int] | slice) -> "Conditioning":
        return self.map(lambda tensor: tensor[rows])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, without those that are None."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Conditioning":
        """Return a conditioning whose every tensor is `function` of the one here."""
        return Conditioning(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def to(self, device: torch.device) -> "Conditioning":
        """Return the same conditioning on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def with_guidance(self, guidance_scale: float) -> "Conditioning":
        """Return the same conditioning with a guidance scale as an input of the denoiser."""
        guidance = self.prompt_embeds.new_full((len(self),), guidance_scale, dtype=torch.float32)
        return replace(self, guidance=guidance)

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Join conditionings along the batch."""
        named = [part.tensors() for part in parts]
        return Conditioning(**{name: torch.cat([each[name] for each in named]) for name in named[0]})


class TextToImageModel(Protocol):
    """A generator family: text and images in, predictions and images out.

    The empty prompt is the unconditional one of every family. Nothing here decides about gradients: a caller that
    wants none says `torch.no_grad()`.

    Attributes:
        family: Name of the family, a key of `FAMILIES`.
        image_size: Side of the square images in pixels.
        latent_shape: [C, H, W] of the latents of one image.
        self_conditioning: Whether `denoise` takes an earlier estimate of the clean latents.
        embeds_guidance: Whether the denoiser takes the guidance scale as an input (distilled guidance); then one
            pass does what two do elsewhere.
        decodes_to_pixels: False for a prior, whose latents are embeddings of images.
    """

    family: str
    image_size: int
    latent_shape: tuple[int, int, int]
    self_conditioning: bool
    embeds_guidance: bool
    decodes_to_pixels: bool

    @property
    def diffusion(self) -> NoiseProcess:
        """Noise levels and what the denoiser predicts."""
        ...

    @property
    def denoiser(self) -> Any:
        """The network that is trained or adapted."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        ...

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name.

        `denoiser`, `text_encoder`, `text_encoder_2` may be adapted; others are `vae`, `image_encoder`.
        """
        ...

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens, before anything is cut."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens; longer ones are cut by `encode_prompts`. None: no tokens."""
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


@runtime_checkable
class LearnsVariance(Protocol):
    """A family whose denoiser predicts, beside the target, where the log variance lies (class-conditional DiT)."""

    def denoise_with_variance(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """Return the prediction and the variance channels, each [B, C, H, W]."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """A family all of whose text encoders can be run in part, from states below their last blocks."""

    def text_encoders(self) -> "dict[str, PromptEncoder]":
        """Return the text encoders by part name, those of `components`."""
        ...


@runtime_checkable
class ImageConditioned(Protocol):
    """A decoder that is conditioned on an embedding of the image itself, not on its prompt."""

    def encode_image_conditioning(self, pixel_values: Tensor) -> Conditioning:
        """Return the condition that images [B, 3, H, W] in [-1, 1] give, for training."""
        ...


@runtime_checkable
class Cascade(Protocol):
    """A decoder with its prior: prompts and noise give an embedding, the embedding conditions the decoder."""

    prior: TextToImageModel

    def condition_on(self, prior_latents: Tensor) -> Conditioning:
        """Return the condition that latents of the prior [B, C, H, W] give."""
        ...

    def unconditional(self, num_images: int) -> Conditioning:
        """Return the condition of no image, B times, for guidance."""
        ...
