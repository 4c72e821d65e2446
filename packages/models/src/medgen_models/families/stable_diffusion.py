"""Stable Diffusion 1.x (Rombach et al. 2022) behind the protocol: a UNet that reads CLIP."""

from collections.abc import Sequence
from typing import Any

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from medgen_models.autoencoders import downsampling_of, latent_size_for
from medgen_models.diffusion import Diffusion
from medgen_models.families.parts import GaussianLatents, OneTextEncoder
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import config_to_diffusion, diffusion_to_scheduler
from medgen_models.protocol import Conditioning
from medgen_models.text_encoder import HiddenStates, PromptEncoder


class StableDiffusionModel(GaussianLatents, OneTextEncoder):
    """A Stable Diffusion 1.x: frozen autoencoder, UNet, CLIP text encoder; no safety checker.

    Args:
        vae: Autoencoder.
        unet: Denoiser.
        prompt_encoder: CLIP with its tokenizer.
        diffusion: Noise levels.
        image_size: Side of the images in pixels; None: that of the UNet's config.

    Raises:
        ValueError: If images of that size give no whole latents.
    """

    family = "sd"
    embeds_guidance = False

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        prompt_encoder: PromptEncoder,
        diffusion: Diffusion,
        *,
        image_size: int | None = None,
    ) -> None:
        self.vae: Any = vae.requires_grad_(False)
        self.denoiser: Any = unet
        self.prompt_encoder = prompt_encoder
        self.diffusion = diffusion
        self.image_size = image_size or unet.config.sample_size * downsampling_of(vae)
        size = latent_size_for(vae, self.image_size)
        self.latent_shape = (unet.config.in_channels, size, size)

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.prompt_encoder.text_model,
            "vae": self.vae,
        }

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to the last states of CLIP [B, L, T]; the UNet reads those of the padding too."""
        return self.prompt_encoder.encode(prompts).to(self.device)

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
            return_dict=False,
        )[0]
        return prediction.to(noisy_latents.dtype)

    def to_pipeline(self) -> StableDiffusionPipeline:
        """Return the same weights as a diffusers pipeline without safety checker."""
        scheduler = diffusion_to_scheduler(self.diffusion)
        scheduler.register_to_config(steps_offset=1)  # the pipeline asks for it; trailing timesteps ignore it
        return StableDiffusionPipeline(
            vae=self.vae,
            unet=self.denoiser,
            text_encoder=self.prompt_encoder.text_model,
            tokenizer=self.prompt_encoder.tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load_sd(source: ModelSource, *, image_size: int | None = None) -> StableDiffusionModel:
    """Load a Stable Diffusion 1.x from a hub name or a folder; its safety checker is not read.

    Args:
        source: Where it is, and the dtype wanted.
        image_size: Side of the images in pixels; None: what the UNet was made for.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If a part is pickled, or the noise schedule is none of those known here.
    """
    return StableDiffusionModel(
        source.module(AutoencoderKL, "vae"),
        source.module(UNet2DConditionModel, "unet"),
        load_clip(source, CLIPTextModel, "text_encoder", "tokenizer"),
        config_to_diffusion(
            source.json_file("scheduler/scheduler_config.json"), source=f"{source.name_or_dir}/scheduler"
        ),
        image_size=image_size,
    )


def load_clip(
    source: ModelSource, model_class: Any, part: str, tokenizer_part: str, *, states: HiddenStates = "last"
) -> PromptEncoder:
    """Load the CLIP text encoder of a Stable Diffusion, whose padding is as visible as the prompt.

    Args:
        source: Where it is, and the dtype wanted.
        model_class: With or without projection.
        part: Subfolder of the text model.
        tokenizer_part: Subfolder of the tokenizer.
        states: Which hidden states condition the UNet.
    """
    text_model, tokenizer = source.module(model_class, part), source.tokenizer(tokenizer_part)
    # A tokenizer without config knows no limit, a text model always does.
    max_tokens = min(tokenizer.model_max_length, text_model.config.max_position_embeddings)
    return PromptEncoder(text_model, tokenizer, max_tokens, states=states, uses_mask=False)
