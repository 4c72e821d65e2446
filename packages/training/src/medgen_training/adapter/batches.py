"""Latents and conditions of an adapter's training: from the cache, or from the encoders at every step.

Shapes: N images, P unique prompts, B batch, C latent channels, H x W latent size, S image size.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from medgen_models import Conditioning, LatentMoments, PromptEncoder, TextToImageModel
from medgen_models.adapters import adapter_of, is_adapted
from medgen_models.partial_text_encoder import blocks_of
from medgen_models.protocol import Cascade, ImageConditioned, ReadsPrompts
from torch import Tensor

from medgen_training.cache import (
    LatentVariants,
    OnProgress,
    PromptTable,
    image_conditions,
    image_encoder_sha256,
    latent_moments,
    prompt_embeddings,
    recalled_states,
    text_encoder_sha256,
    to_pixel_values,
)

logger = logging.getLogger(__name__)

# Image rows [B] and standard normal noise [B, C, H, W] to latents of that shape.
LatentSource = Callable[[Tensor, Tensor], Tensor]
# Image rows [B] and prompt rows [B] to conditions, B rows.
ConditionSource = Callable[[Tensor, Tensor], Conditioning]


@dataclass(frozen=True)
class CachedLatents:
    """Fresh latents from cached moments at every step."""

    moments: LatentMoments  # mean and std, each [N, C, H, W]
    device: torch.device

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return latents [B, C, H, W] of image rows [B], drawn with noise of that shape."""
        chosen = LatentMoments(self.moments.mean[images], self.moments.std[images])
        return to_device(chosen.sample(noise), self.device)


@dataclass(frozen=True)
class LiveLatents:
    """Latents from the encoder at every step."""

    model: TextToImageModel
    images: Tensor  # [N, 3, S, S] uint8

    @torch.no_grad()
    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return latents [B, C, H, W] of image rows [B], drawn with noise of that shape."""
        moments = self.model.encode_images(to_pixel_values(self.images[images], self.model.device))
        return moments.sample(noise.to(moments.mean))


@dataclass(frozen=True)
class CachedPrompts:
    """Prompts whose encoder is frozen, encoded once."""

    conditioning: Conditioning  # P rows
    device: torch.device

    def __call__(self, images: Tensor, prompt_rows: Tensor) -> Conditioning:
        """Return the prompts of prompt rows [B]."""
        del images
        return self.conditioning[prompt_rows].map(lambda tensor: to_device(tensor, self.device))


@dataclass(frozen=True)
class LivePrompts:
    """Prompts encoded at every step, by an encoder that learns: whole, or its last blocks alone."""

    model: TextToImageModel
    prompts: Sequence[str]

    def __call__(self, images: Tensor, prompt_rows: Tensor) -> Conditioning:
        """Return the prompts of prompt rows [B], with gradients into the encoder's adapter."""
        del images
        return self.model.encode_prompts([self.prompts[row] for row in prompt_rows.tolist()])


@dataclass(frozen=True)
class CachedImageConditions:
    """What a decoder is conditioned on: the embedding of the image itself."""

    conditioning: Conditioning  # N rows
    device: torch.device

    def __call__(self, images: Tensor, prompt_rows: Tensor) -> Conditioning:
        """Return the embeddings of image rows [B]."""
        del prompt_rows
        return self.conditioning[images].map(lambda tensor: to_device(tensor, self.device))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device without waiting for what is still queued there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def latent_source(
    model: TextToImageModel,
    images: Tensor,
    cache_dir: Path,
    *,
    cache: bool,
    on_progress: OnProgress | None = None,
) -> LatentSource:
    """Return where latents of images [N, 3, S, S] uint8 come from, filling the cache first if it is wanted."""
    if not cache:
        return LiveLatents(model, images)
    moments = latent_moments(
        model,
        images,
        LatentVariants(),
        cache_dir,
        vae_sha256=image_encoder_sha256(model),
        on_progress=on_progress,
    )
    return CachedLatents(LatentMoments(moments.mean[0], moments.std[0]), model.device)


def condition_source(
    model: TextToImageModel,
    images: Tensor,
    prompts: PromptTable,
    cache_dir: Path,
    *,
    cache: bool,
    text_encoder_learns: bool,
) -> ConditionSource:
    """Return where conditions come from; what frozen weights give is computed once if `cache` is wanted.

    Of an encoder that learns in its last blocks alone, the blocks below them then rest: the model encodes no other
    prompts than these any more.
    """
    if isinstance(model, ImageConditioned):
        encoded = image_conditions(
            model, images, cache_dir, image_encoder_sha256=image_encoder_sha256(model), device=model.device
        )
        return CachedImageConditions(encoded, model.device)
    if text_encoder_learns or not cache:
        if cache and isinstance(model, ReadsPrompts):
            rest_below_adapters(model, prompts.prompts, cache_dir)
        return LivePrompts(model, prompts.prompts)
    table = prompt_embeddings(
        model, prompts.prompts, cache_dir, text_encoder_sha256=text_encoder_sha256(model)
    )
    return CachedPrompts(table, model.device)


def rest_below_adapters(model: ReadsPrompts, prompts: Sequence[str], cache_dir: Path) -> None:
    """Let the blocks below the first adapter of every text encoder rest: what they give is computed once."""
    depths = {part: blocks_that_run(part, encoder) for part, encoder in model.text_encoders().items()}
    num_blocks = {part: depth for part, depth in depths.items() if depth is not None}
    if not num_blocks:
        return
    encoders = {part: model.text_encoders()[part] for part in num_blocks}
    for part, below in recalled_states(encoders, prompts, num_blocks, cache_dir).items():
        encoders[part].below = below
        depth = len(blocks_of(encoders[part].text_model))
        logger.info("%s: the last %d of %d blocks run at every step", part, num_blocks[part], depth)


def blocks_that_run(part: str, encoder: PromptEncoder) -> int | None:
    """Return how many of the last blocks of a text encoder run at every step; None: all of them."""
    text_model = encoder.text_model
    num_blocks = 0
    if is_adapted(text_model):
        num_blocks = adapter_of(text_model).last_blocks or len(blocks_of(text_model))
    if encoder.states == "penultimate":
        num_blocks = max(num_blocks, 1)  # the states that are read come before the last block
    if num_blocks >= len(blocks_of(text_model)):
        return None
    if text_model.training:
        logger.warning(
            "%s: all blocks run at every step, because dropout changes what they give; set "
            "train.text_encoder_dropout to false, and only the last %d of %d run",
            part,
            num_blocks,
            len(blocks_of(text_model)),
        )
        return None
    return num_blocks


def unconditional_like(model: TextToImageModel, source: ConditionSource, images: Tensor) -> Conditioning:
    """Return the unconditional condition for every image row [B], for guidance."""
    if isinstance(model, Cascade):
        return model.unconditional(len(images))
    return source(images, torch.zeros(len(images), dtype=torch.long))  # row 0 is the empty prompt
