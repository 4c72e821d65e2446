"""Kandinsky 3 (Arkhipkin et al. 2023) behind the protocol: a convolutional UNet that reads a T5-type encoder.

Shapes: B batch, C latent channels, H x W latent size, L prompt tokens, T width of the text encoder.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import Kandinsky3Pipeline, Kandinsky3UNet, VQModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from medgen_models.autoencoders import downsampling_of, latent_size_for
from medgen_models.diffusion import Diffusion
from medgen_models.families.parts import OneTextEncoder
from medgen_models.model_source import ModelSource
from medgen_models.movq import decode_movq, encode_movq, load_movq
from medgen_models.noise_schedulers import config_to_diffusion, diffusion_to_scheduler
from medgen_models.protocol import Conditioning, LatentMoments
from medgen_models.text_encoder import PromptEncoder

LATENT_SIZE = 128  # of the published weights: images of 1024 px
MAX_TOKENS = 128  # of the ordinary pipeline

# No config of the published parts tells the image size. Pipelines pass over names that begin so.
IMAGE_SIZE_FIELD = "_image_size"


class Kandinsky3Model(OneTextEncoder):
    """A Kandinsky 3: MoVQ, denoiser, T5-type encoder (FLAN-UL2).

    Two habits of the ordinary pipeline differ. It cuts the padding of a batch off down to one token, and the
    denoiser averages over tokens, so an image depends a little on the other prompts; here every prompt has L
    tokens. And its guidance (g + 1) cond - g uncond is g + 1 here.

    Args:
        unet: Denoiser.
        movq: Autoencoder.
        prompt_encoder: T5 with its tokenizer.
        diffusion: Noise levels and what the denoiser predicts.
        image_size: Side of the images in pixels; None: what latents of 128 decode to.

    Raises:
        ValueError: If the denoiser cannot halve latents of that size often enough.
    """

    family = "kandinsky3"
    self_conditioning = False
    embeds_guidance = False
    decodes_to_pixels = True

    def __init__(
        self,
        unet: Kandinsky3UNet,
        movq: VQModel,
        prompt_encoder: PromptEncoder,
        diffusion: Diffusion,
        *,
        image_size: int | None = None,
    ) -> None:
        self.vae: Any = movq.requires_grad_(False)
        self.denoiser: Any = unet
        self.prompt_encoder = prompt_encoder
        self.diffusion = diffusion
        self.image_size = image_size or LATENT_SIZE * downsampling_of(movq)
        halvings = 2 ** (len(unet.config.block_out_channels) - 1)
        size = latent_size_for(movq, self.image_size, patch_size=halvings)
        self.latent_shape = (unet.config.in_channels, size, size)

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        return self.denoiser.device

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.prompt_encoder.text_model,
            "vae": self.vae,
        }

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to states [B, L, T], zero on padding, and masks; `""` has only padding."""
        encoded = self.prompt_encoder.encode(prompts)
        has_text = torch.tensor([bool(prompt) for prompt in prompts], device=encoded.prompt_mask.device)
        mask = encoded.prompt_mask & has_text[:, None]
        # Selected, not multiplied: padding stays zero even where a state is not finite.
        states = encoded.prompt_embeds.where(mask[..., None], encoded.prompt_embeds.new_zeros(()))
        return replace(encoded, prompt_embeds=states, prompt_mask=mask).to(self.device)

    def encode_images(self, pixel_values: Tensor) -> LatentMoments:
        """Encode images [B, 3, H, W] in [-1, 1] to unscaled latents of no spread."""
        return encode_movq(self.vae, pixel_values)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents [B, C, H, W] to images [B, 3, H, W], not clamped."""
        return decode_movq(self.vae, latents)

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the target of `diffusion`, [B, C, H, W], in the dtype of the noisy latents."""
        assert previous_estimate is None
        # An adapted layer gives the weight of its base here, not that of the adapter in float32.
        dtype = self.denoiser.conv_in.weight.dtype
        prediction = self.denoiser(
            noisy_latents.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            encoder_attention_mask=conditioning.prompt_mask,
            return_dict=False,
        )[0]
        return prediction.to(noisy_latents.dtype)

    def to_pipeline(self) -> Kandinsky3Pipeline:
        """Return the same weights as a diffusers pipeline, which remembers the image size."""
        pipeline = Kandinsky3Pipeline(
            tokenizer=self.prompt_encoder.tokenizer,
            text_encoder=self.prompt_encoder.text_model,
            unet=self.denoiser,
            scheduler=diffusion_to_scheduler(self.diffusion),
            movq=self.vae,
        )
        pipeline.register_to_config(**{IMAGE_SIZE_FIELD: self.image_size})
        return pipeline


def load_kandinsky3(
    source: ModelSource,
    *,
    image_size: int | None = None,
    max_tokens: int = MAX_TOKENS,
    lower_case: bool = False,
) -> Kandinsky3Model:
    """Load a Kandinsky 3 from a hub name or a folder.

    Args:
        source: Where it is, and the dtype wanted; MoVQ is float32 in any case.
        image_size: Side of the images in pixels; None: what the folder says, or what latents of 128 decode to.
        max_tokens: Length every prompt is padded or cut to; images depend on it.
        lower_case: Whether prompts are lower-cased.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If a part is pickled, or the noise schedule is none of those known here.
        ValueError: If there are no images of that size.
    """
    prompt_encoder = PromptEncoder(
        source.module(T5EncoderModel, "text_encoder"),
        source.tokenizer("tokenizer"),
        max_tokens,
        lower_case=lower_case,
    )
    return Kandinsky3Model(
        source.module(Kandinsky3UNet, "unet"),
        load_movq(source),
        prompt_encoder,
        config_to_diffusion(
            source.json_file("scheduler/scheduler_config.json"), source=f"{source.name_or_dir}/scheduler"
        ),
        image_size=image_size or source.index().get(IMAGE_SIZE_FIELD),
    )
