"""Stable Diffusion XL (Podell et al. 2023) behind the protocol: two CLIPs, and the image size told to the UNet."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from medgen_models.autoencoders import downsampling_of, latent_size_for
from medgen_models.diffusion import Diffusion
from medgen_models.families.parts import GaussianLatents
from medgen_models.families.stable_diffusion import load_clip
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import config_to_diffusion, diffusion_to_scheduler
from medgen_models.protocol import Conditioning
from medgen_models.text_encoder import PromptEncoder


class SdxlModel(GaussianLatents):
    """A Stable Diffusion XL: frozen autoencoder, UNet, two CLIP text encoders.

    The UNet is told that images were neither cropped nor resized: original and target size are `image_size`.

    Args:
        vae: Autoencoder.
        unet: Denoiser.
        prompt_encoders: CLIP and the larger CLIP with projection, both with penultimate states.
        diffusion: Noise levels.
        zero_empty_prompt: Whether the embedding of the empty prompt is zero, not what the encoders make of it.
        image_size: Side of the images in pixels; None: that of the UNet's config.

    Raises:
        ValueError: If images of that size give no whole latents.
    """

    family = "sdxl"
    embeds_guidance = False

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        prompt_encoders: tuple[PromptEncoder, PromptEncoder],
        diffusion: Diffusion,
        *,
        zero_empty_prompt: bool = True,
        image_size: int | None = None,
    ) -> None:
        self.vae: Any = vae.requires_grad_(False)
        self.denoiser: Any = unet
        self.prompt_encoders = prompt_encoders
        self.diffusion = diffusion
        self.zero_empty_prompt = zero_empty_prompt
        self.image_size = image_size or unet.config.sample_size * downsampling_of(vae)
        size = latent_size_for(vae, self.image_size)
        self.latent_shape = (unet.config.in_channels, size, size)

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens that both text encoders read whole."""
        return min(encoder.max_tokens for encoder in self.prompt_encoders)

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        first, second = self.prompt_encoders
        return {
            "denoiser": self.denoiser,
            "text_encoder": first.text_model,
            "text_encoder_2": second.text_model,
            "vae": self.vae,
        }

    def text_encoders(self) -> dict[str, PromptEncoder]:
        """Return the text encoders by part name."""
        return dict(zip(("text_encoder", "text_encoder_2"), self.prompt_encoders, strict=True))

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens, before anything is cut; the longer of the two counts."""
        counts = (encoder.num_tokens(prompts) for encoder in self.prompt_encoders)
        return [max(pair) for pair in zip(*counts, strict=True)]

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to the states of both encoders side by side [B, L, T1 + T2], and a pooled one [B, P]."""
        first, second = (encoder.encode(prompts).to(self.device) for encoder in self.prompt_encoders)
        assert second.pooled_prompt_embeds is not None
        states = torch.cat([first.prompt_embeds, second.prompt_embeds], dim=-1)
        pooled = second.pooled_prompt_embeds
        if self.zero_empty_prompt:
            is_empty = torch.tensor([not prompt for prompt in prompts], device=self.device)
            states = states.masked_fill(is_empty.view(-1, 1, 1), 0.0)
            pooled = pooled.masked_fill(is_empty.view(-1, 1), 0.0)
        return Conditioning(prompt_embeds=states, prompt_mask=first.prompt_mask, pooled_prompt_embeds=pooled)

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the target of `diffusion`, [B, C, H, W], in the dtype of the noisy latents."""
        assert previous_estimate is None
        assert conditioning.pooled_prompt_embeds is not None
        # An adapted layer gives the weight of its base here, not that of the adapter in float32.
        dtype = self.denoiser.conv_in.weight.dtype
        prediction = self.denoiser(
            noisy_latents.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            added_cond_kwargs={
                "text_embeds": conditioning.pooled_prompt_embeds.to(dtype),
                "time_ids": self._size_conditions(noisy_latents),
            },
            return_dict=False,
        )[0]
        return prediction.to(noisy_latents.dtype)

    def _size_conditions(self, noisy_latents: Tensor) -> Tensor:
        """Return original height and width, top and left of the crop, target height and width, [B, 6] float32."""
        num_images, _, height, width = noisy_latents.shape
        side = downsampling_of(self.vae)
        size = [height * side, width * side]
        conditions = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=noisy_latents.device)
        return conditions.expand(num_images, -1)

    def to_pipeline(self) -> StableDiffusionXLPipeline:
        """Return the same weights as a diffusers pipeline."""
        first, second = self.prompt_encoders
        return StableDiffusionXLPipeline(
            vae=self.vae,
            unet=self.denoiser,
            text_encoder=first.text_model,
            text_encoder_2=second.text_model,
            tokenizer=first.tokenizer,
            tokenizer_2=second.tokenizer,
            scheduler=diffusion_to_scheduler(self.diffusion),
            force_zeros_for_empty_prompt=self.zero_empty_prompt,
        )


def load_sdxl(source: ModelSource, *, image_size: int | None = None) -> SdxlModel:
    """Load a Stable Diffusion XL from a hub name or a folder.

    Args:
        source: Where it is, and the dtype wanted; the autoencoder overflows in float16 and is float32 then.
        image_size: Side of the images in pixels; None: what the UNet was made for.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If a part is pickled, or the noise schedule is none of those known here.
    """
    vae_dtype = torch.float32 if source.dtype == torch.float16 else source.dtype
    prompt_encoders = (
        load_clip(source, CLIPTextModel, "text_encoder", "tokenizer", states="penultimate"),
        load_clip(source, CLIPTextModelWithProjection, "text_encoder_2", "tokenizer_2", states="penultimate"),
    )
    return SdxlModel(
        replace(source, dtype=vae_dtype).module(AutoencoderKL, "vae"),
        source.module(UNet2DConditionModel, "unet"),
        prompt_encoders,
        config_to_diffusion(
            source.json_file("scheduler/scheduler_config.json"), source=f"{source.name_or_dir}/scheduler"
        ),
        zero_empty_prompt=source.index().get("force_zeros_for_empty_prompt", True),
        image_size=image_size,
    )
