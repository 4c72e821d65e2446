"""PixArt-alpha (Chen et al. 2023) behind the protocol: a diffusion transformer that reads T5."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from medgen_models.autoencoders import downsampling_of, latent_size_for
from medgen_models.diffusion import Diffusion
from medgen_models.families.parts import GaussianLatents, OneTextEncoder
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import config_to_diffusion, diffusion_to_scheduler
from medgen_models.protocol import Conditioning
from medgen_models.text_encoder import PromptEncoder

MAX_TOKENS = 120  # of PixArt-alpha's training and of Med-Art's


class PixArtModel(GaussianLatents, OneTextEncoder):
    """A PixArt-alpha: frozen autoencoder, transformer, T5 encoder.

    The transformer predicts noise and variance; only the noise is used, as in Med-Art.

    Args:
        vae: Autoencoder of Stable Diffusion.
        transformer: Denoiser.
        prompt_encoder: T5 with its tokenizer.
        diffusion: Noise levels.
        image_size: Side of the images in pixels; None: that of the transformer's config.

    Raises:
        ValueError: If images of that size cannot be cut into patches.
    """

    family = "pixart"
    embeds_guidance = False

    def __init__(
        self,
        vae: AutoencoderKL,
        transformer: PixArtTransformer2DModel,
        prompt_encoder: PromptEncoder,
        diffusion: Diffusion,
        *,
        image_size: int | None = None,
    ) -> None:
        self.vae: Any = vae.requires_grad_(False)
        self.denoiser: Any = transformer
        self.prompt_encoder = prompt_encoder
        self.diffusion = diffusion
        self.image_size = image_size or transformer.config.sample_size * downsampling_of(vae)
        size = latent_size_for(vae, self.image_size, patch_size=transformer.config.patch_size)
        self.latent_shape = (transformer.config.in_channels, size, size)

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.prompt_encoder.text_model,
            "vae": self.vae,
        }

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to the states of T5 [B, L, T] and their mask."""
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
        dtype = self.denoiser.pos_embed.proj.weight.dtype
        prediction = self.denoiser(
            noisy_latents.to(dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            encoder_attention_mask=conditioning.prompt_mask.to(dtype),
            timestep=timesteps,
            added_cond_kwargs=self._size_conditions(noisy_latents, dtype),
            return_dict=False,
        )[0]
        return prediction[:, : noisy_latents.shape[1]].to(noisy_latents.dtype)

    def _size_conditions(self, noisy_latents: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Return what the 1024 px model is told besides: the size [B, 2] in pixels, the aspect ratio [B, 1]."""
        if not self.denoiser.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        num_images, _, height, width = noisy_latents.shape
        side = downsampling_of(self.vae)
        sizes = torch.tensor([[height * side, width * side]], dtype=dtype, device=noisy_latents.device)
        ratios = torch.tensor([[height / width]], dtype=dtype, device=noisy_latents.device)
        return {"resolution": sizes.expand(num_images, -1), "aspect_ratio": ratios.expand(num_images, -1)}

    def to_pipeline(self) -> PixArtAlphaPipeline:
        """Return the same weights as a diffusers pipeline."""
        return PixArtAlphaPipeline(
            vae=self.vae,
            transformer=self.denoiser,
            text_encoder=self.prompt_encoder.text_model,
            tokenizer=self.prompt_encoder.tokenizer,
            scheduler=diffusion_to_scheduler(self.diffusion),
        )


def load_pixart(
    source: ModelSource,
    *,
    image_size: int | None = None,
    max_tokens: int = MAX_TOKENS,
    lower_case: bool = False,
) -> PixArtModel:
    """Load a PixArt-alpha from a hub name or a folder.

    Args:
        source: Where it is, and the dtype wanted.
        image_size: Side of the images in pixels; None: what the transformer was made for.
        max_tokens: Length every prompt is padded or cut to.
        lower_case: Whether prompts are lower-cased, as the diffusers pipeline does when it samples; Med-Art trains
            on captions as they are.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If a part is pickled, or the noise schedule is none of those known here.
    """
    prompt_encoder = PromptEncoder(
        source.module(T5EncoderModel, "text_encoder"),
        source.tokenizer("tokenizer"),
        max_tokens,
        lower_case=lower_case,
    )
    return PixArtModel(
        source.module(AutoencoderKL, "vae"),
        source.module(PixArtTransformer2DModel, "transformer"),
        prompt_encoder,
        config_to_diffusion(
            source.json_file("scheduler/scheduler_config.json"), source=f"{source.name_or_dir}/scheduler"
        ),
        image_size=image_size,
    )
