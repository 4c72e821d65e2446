"""FLUX.1 (Black Forest Labs 2024) behind the protocol that trainers and samplers know.

The denoiser reads latents as a sequence of 2 x 2 patches, T5 states without a mask, and the pooled state of CLIP.

Shapes: B batch, C latent channels, H x W latent size, N = H W / 4 patches, L prompt tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import CLIPTextModel, T5EncoderModel

from medgen_models.autoencoders import latent_size_for
from medgen_models.diffusion import FlowMatching
from medgen_models.errors import UnusableModelError
from medgen_models.families.parts import GaussianLatents
from medgen_models.model_source import ModelSource
from medgen_models.protocol import Conditioning
from medgen_models.text_encoder import PromptEncoder

DEFAULT_GUIDANCE = 3.5  # of the ordinary pipeline, and of its training scripts
LONGEST_PROMPT = 512  # tokens that the denoiser was trained with

# What a scheduler config may say that plain Euler steps on shifted levels do not do.
_UNKNOWN_SCHEDULES = (
    "invert_sigmas",
    "shift_terminal",
    "stochastic_sampling",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
)


class FluxModel(GaussianLatents):
    """A FLUX.1: autoencoder, flow-matching transformer, CLIP and T5.

    The guidance-distilled version (FLUX.1-dev) takes the guidance scale as an input. T5 reads every prompt at the
    same length, padding included, and the denoiser sees the padding too: images depend on that length.

    Args:
        vae: Autoencoder.
        transformer: Denoiser.
        clip_encoder: Its pooled state conditions.
        t5_encoder: Its states condition.
        scheduler_config: Content of `scheduler_config.json`.
        image_size: Side of the images in pixels; None: what the autoencoder was trained with.

    Raises:
        UnusableModelError: If the parts do not belong together, or the levels of the scheduler are unknown here.
        ValueError: If the latents of images of that size cannot be cut into patches.
    """

    family = "flux"

    def __init__(
        self,
        vae: AutoencoderKL,
        transformer: FluxTransformer2DModel,
        clip_encoder: PromptEncoder,
        t5_encoder: PromptEncoder,
        scheduler_config: Mapping[str, Any],
        *,
        image_size: int | None = None,
    ) -> None:
        _check_parts(vae, transformer, clip_encoder, t5_encoder)
        self.vae: Any = vae.requires_grad_(False)
        self.denoiser: Any = transformer
        self.clip_encoder = clip_encoder
        self.t5_encoder = t5_encoder
        self.scheduler_config = dict(scheduler_config)
        self.embeds_guidance: bool = transformer.config.guidance_embeds
        self.image_size: int = vae.config.sample_size if image_size is None else image_size
        size = latent_size_for(vae, self.image_size, patch_size=2)
        self.latent_shape = (vae.config.latent_channels, size, size)
        self.diffusion = config_to_flow(self.scheduler_config, num_patches=size**2 // 4)

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens of T5; CLIP reads the first 77 of its own."""
        return self.t5_encoder.max_tokens

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name: `text_encoder` is CLIP, `text_encoder_2` is T5."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.clip_encoder.text_model,
            "text_encoder_2": self.t5_encoder.text_model,
            "vae": self.vae,
        }

    def text_encoders(self) -> dict[str, PromptEncoder]:
        """Return the text encoders by part name."""
        return {"text_encoder": self.clip_encoder, "text_encoder_2": self.t5_encoder}

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens of T5, before anything is cut."""
        return self.t5_encoder.num_tokens(prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to T5 states [B, L, T] and the pooled CLIP state; every token counts, padding too."""
        states = self.t5_encoder.encode(prompts)
        pooled = self.clip_encoder.encode(prompts).pooled_prompt_embeds
        assert pooled is not None
        return replace(
            states.to(self.device),
            prompt_mask=torch.ones_like(states.prompt_mask, device=self.device),
            pooled_prompt_embeds=pooled.to(self.device),
        )

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity e - x, [B, C, H, W], of noisy latents at timesteps [B].

        A conditioning without guidance has that of `DEFAULT_GUIDANCE`.
        """
        pooled, guidance = conditioning.pooled_prompt_embeds, conditioning.guidance
        assert previous_estimate is None
        assert pooled is not None
        if guidance is None:
            guidance = conditioning.with_guidance(DEFAULT_GUIDANCE).guidance
        # An adapted layer gives the weight of its base here, not that of the adapter in float32.
        dtype = self.denoiser.x_embedder.weight.dtype
        height, width = noisy_latents.shape[-2:]
        velocity = self.denoiser(
            hidden_states=pack_latents(noisy_latents).to(dtype),
            timestep=timesteps / self.diffusion.num_timesteps,
            guidance=guidance if self.embeds_guidance else None,
            pooled_projections=pooled.to(dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            txt_ids=noisy_latents.new_zeros(conditioning.prompt_embeds.shape[1], 3, dtype=torch.float32),
            img_ids=_patch_positions(height // 2, width // 2, noisy_latents.device),
            return_dict=False,
        )[0]
        return unpack_latents(velocity, height, width).to(noisy_latents.dtype)

    def to_pipeline(self) -> FluxPipeline:
        """Return the same weights as the ordinary diffusers pipeline."""
        return FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(self.scheduler_config),
            vae=self.vae,
            text_encoder=self.clip_encoder.text_model,
            tokenizer=self.clip_encoder.tokenizer,
            text_encoder_2=self.t5_encoder.text_model,
            tokenizer_2=self.t5_encoder.tokenizer,
            transformer=self.denoiser,
        )


def load_flux(
    source: ModelSource, *, image_size: int | None = None, max_tokens: int | None = None
) -> FluxModel:
    """Load a FLUX.1 from its pipeline folder or hub name.

    Args:
        source: Where it is, and the dtype wanted.
        image_size: Side of the images in pixels; None: what the autoencoder was trained with.
        max_tokens: Length of every prompt for T5, at most 512; None: what the tokenizer says. Shorter is faster.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If weights are pickled or the parts do not belong together.
        ValueError: If there are no images of that size, or no prompts of that length.
    """
    tokenizer, tokenizer_2 = source.tokenizer("tokenizer"), source.tokenizer("tokenizer_2")
    clip_text_model = source.module(CLIPTextModel, "text_encoder")
    positions = clip_text_model.config.max_position_embeddings
    if max_tokens is None:
        max_tokens = min(tokenizer_2.model_max_length, LONGEST_PROMPT)
    if not 1 <= max_tokens <= LONGEST_PROMPT:
        raise ValueError(f"max_tokens must lie in [1, {LONGEST_PROMPT}] for FLUX, got {max_tokens}")
    return FluxModel(
        source.module(AutoencoderKL, "vae"),
        source.module(FluxTransformer2DModel, "transformer"),
        PromptEncoder(
            clip_text_model, tokenizer, min(tokenizer.model_max_length, positions), uses_mask=False
        ),
        PromptEncoder(
            source.module(T5EncoderModel, "text_encoder_2"), tokenizer_2, max_tokens, uses_mask=False
        ),
        source.json_file("scheduler/scheduler_config.json"),
        image_size=image_size,
    )


def config_to_flow(config: Mapping[str, Any], *, num_patches: int) -> FlowMatching:
    """Read a flow from the config of a flow-matching Euler scheduler, for images of so many patches.

    With dynamic shifting, mu is linear in N through (`base_image_seq_len`, `base_shift`) and (`max_image_seq_len`,
    `max_shift`), and the shift is exp(mu), or mu itself where `time_shift_type` is linear.

    Raises:
        UnusableModelError: If it is another scheduler, or its levels are not merely shifted.
    """
    class_name = config.get("_class_name", FlowMatchEulerDiscreteScheduler.__name__)
    if class_name != FlowMatchEulerDiscreteScheduler.__name__:
        raise UnusableModelError(
            f"scheduler_config.json: field '_class_name' is {class_name!r}; "
            f"expected {FlowMatchEulerDiscreteScheduler.__name__}"
        )
    for field in _UNKNOWN_SCHEDULES:
        if config.get(field):
            raise UnusableModelError(
                f"scheduler_config.json: {field} is {config[field]!r}; expected null or false, as FLUX.1 has it"
            )
    num_timesteps = config.get("num_train_timesteps", 1000)
    if not config.get("use_dynamic_shifting", False):
        return FlowMatching(num_timesteps, shift=config.get("shift", 1.0))
    start, end = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (num_patches - start) / (end - start)
    is_linear = config.get("time_shift_type", "exponential") == "linear"
    return FlowMatching(num_timesteps, shift=mu if is_linear else math.exp(mu))


def pack_latents(latents: Tensor) -> Tensor:
    """Cut latents [B, C, H, W] into 2 x 2 patches, row by row, [B, N, 4 C]."""
    return pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack_latents(patches: Tensor, height: int, width: int) -> Tensor:
    """Put patches [B, N, 4 C] together to latents [B, C, H, W]."""
    return pixel_shuffle(patches.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def _patch_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return (0, row, column) of every patch, [N, 3] float32; tokens of text all lie at (0, 0, 0)."""
    return torch.cartesian_prod(
        torch.zeros(1, device=device),
        torch.arange(rows, device=device, dtype=torch.float32),
        torch.arange(columns, device=device, dtype=torch.float32),
    )


def _check_parts(
    vae: AutoencoderKL,
    transformer: FluxTransformer2DModel,
    clip_encoder: PromptEncoder,
    t5_encoder: PromptEncoder,
) -> None:
    config = transformer.config
    widths = {
        "channels of a patch": (config.in_channels, 4 * vae.config.latent_channels, "the autoencoder"),
        "width of the states": (config.joint_attention_dim, t5_encoder.width, "T5"),
        "width of the pooled state": (config.pooled_projection_dim, clip_encoder.width, "CLIP"),
    }
    for what, (wanted, given, giver) in widths.items():
        if wanted != given:
            raise UnusableModelError(
                f"{what}: the denoiser of FLUX wants {wanted}, {giver} gives {given}; take both from one folder"
            )
