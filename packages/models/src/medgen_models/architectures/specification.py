"""How a published model is written down: its real classes and the arguments they are built with.

Facts only: neither torch nor a model library is imported before something is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One module of a published model.

    Attributes:
        model_class: A class of transformers if `config_class` is given, otherwise of diffusers.
        config: Arguments of the config class, or of the model class where there is none.
        hub_folder: Folder of the part in its repository.
        config_class: Config class of transformers.
        hub_name: Repository, where it is not that of the family.
    """

    model_class: str
    config: Mapping[str, Any]
    hub_folder: str
    config_class: str | None = None
    hub_name: str | None = None

    def build(self) -> nn.Module:
        """Build the module on the default device and in the default dtype, frozen and in eval mode."""
        module: nn.Module
        if self.config_class is None:
            import diffusers

            module = getattr(diffusers, self.model_class)(**self.config)
        else:
            import transformers

            config = getattr(transformers, self.config_class)(**self.config)
            module = getattr(transformers, self.model_class)(config)
        return module.requires_grad_(False).eval()


@dataclass(frozen=True)
class InputSize:
    """What the size of a batch depends on: B images of S x S pixels, L prompt tokens, the dtype of floats."""

    batch_size: int
    image_size: int
    num_tokens: int
    dtype: torch.dtype

    def latents(self, channels: int, downsampling: int = 8) -> torch.Tensor:
        """Return latents [B, channels, S / downsampling, S / downsampling] on the meta device."""
        side = self.image_size // downsampling
        return self.floats(channels, side, side)

    def floats(self, *shape: int) -> torch.Tensor:
        """Return floats [B, *shape] on the meta device."""
        return _meta((self.batch_size, *shape), self.dtype)

    def token_ids(self, num_tokens: int | None = None) -> torch.Tensor:
        """Return token ids [B, num_tokens or L] on the meta device."""
        import torch

        return _meta((self.batch_size, num_tokens or self.num_tokens), torch.long)

    def timesteps(self) -> torch.Tensor:
        """Return integer timesteps [B] on the meta device."""
        import torch

        return _meta((self.batch_size,), torch.long)


def _meta(shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return torch.empty(shape, dtype=dtype, device="meta")


CallInputs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """The shape of a published generator, every part of it.

    Attributes:
        hub_name: Repository that the configurations stand for.
        parts: Its modules; the one that predicts noise is always `denoiser`.
        image_size: Side in pixels of the images that the published weights were last trained on.
        num_tokens: Length to which prompts are padded.
        latent_shapes: What a cache keeps of one image of a side: shapes of mean and standard deviation, or of
            the one tensor where the encoder is deterministic.
        prompt_shapes: What a cache keeps of one prompt of a length: shapes of the encoded states.
        inputs: Arguments of one call of each part, by name of the call: `part` or `part.method`.
        fixed_tokens: Whether some part takes no prompt of another length than `num_tokens`.
    """

    hub_name: str
    parts: Mapping[str, Part]
    image_size: int
    num_tokens: int
    latent_shapes: Callable[[int], tuple[Shape, ...]]
    prompt_shapes: Callable[[int], tuple[Shape, ...]]
    inputs: Callable[[InputSize], CallInputs]
    fixed_tokens: bool = False

    def latent_cache_bytes(self, image_size: int, bytes_per_value: int = 4) -> int:
        """Return the bytes that the latents of one image take in a cache."""
        return bytes_per_value * sum(map(prod, self.latent_shapes(image_size)))

    def prompt_cache_bytes(self, num_tokens: int, bytes_per_value: int = 4) -> int:
        """Return the bytes that the encoded states of one prompt take in a cache."""
        return bytes_per_value * sum(map(prod, self.prompt_shapes(num_tokens)))


def gaussian_latents(channels: int, downsampling: int = 8) -> Callable[[int], tuple[Shape, ...]]:
    """Return the shapes of mean and standard deviation of the latents of an image of a side."""
    return lambda image_size: ((2, channels, image_size // downsampling, image_size // downsampling),)
