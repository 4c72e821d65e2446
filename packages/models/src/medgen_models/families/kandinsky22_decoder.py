"""The decoder of Kandinsky 2.2 (Razzhigaev et al. 2023) behind the protocol: from an image embedding to pixels.

It reads no text. Trained on the embeddings of the training images themselves, it draws from the embeddings that a
prior guesses.

Shapes: B batch, C latent channels, H x W latent size, E width of the embeddings.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import KandinskyV22Pipeline, UNet2DConditionModel, VQModel
from torch import Tensor, nn

from medgen_models.autoencoders import downsampling_of, latent_size_for
from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError
from medgen_models.families.kandinsky22_prior import Kandinsky22PriorModel, load_kandinsky22_prior
from medgen_models.model_source import ModelSource
from medgen_models.movq import decode_movq, encode_movq, load_movq
from medgen_models.noise_schedulers import config_to_diffusion, diffusion_to_scheduler
from medgen_models.protocol import Conditioning, LatentMoments, TextToImageModel
from medgen_models.sampling import JobNoise, SamplingConfig, sample_latents

PROMPT_SEED = 0  # of the noise from which `encode_prompts` draws, always the same


class Kandinsky22DecoderModel:
    """A decoder: MoVQ, denoiser conditioned on an image embedding, and its prior where there is one.

    The denoiser predicts noise and variance; only the noise is used, as in MMCP. Without a prior it can be trained
    and sampled from conditions that are there already, and reads neither prompts nor images to be conditioned on;
    it is then no `Cascade`.

    Args:
        unet: Denoiser.
        movq: Autoencoder.
        diffusion: Noise levels.
        prior: What turns prompts into embeddings; it brings the image encoder. It samples by its own noise
            schedule, whichever it was trained with.
        image_size: Side of the images in pixels; None: that of the denoiser's config.

    Raises:
        UnusableModelError: If prior and denoiser do not belong together.
        ValueError: If the denoiser cannot halve latents of that size often enough.
    """

    family = "kandinsky22-decoder"
    self_conditioning = False
    embeds_guidance = False
    decodes_to_pixels = True

    def __init__(
        self,
        unet: UNet2DConditionModel,
        movq: VQModel,
        diffusion: Diffusion,
        *,
        prior: Kandinsky22PriorModel | None = None,
        image_size: int | None = None,
    ) -> None:
        self.vae: Any = movq.requires_grad_(False)
        self.denoiser: Any = unet
        self.diffusion = diffusion
        self.image_size = image_size or unet.config.sample_size * downsampling_of(movq)
        halvings = 2 ** (len(unet.config.block_out_channels) - 1)
        size = latent_size_for(movq, self.image_size, patch_size=halvings)
        self.latent_shape = (unet.config.in_channels, size, size)
        self._prior = None if prior is None else prior.with_noise_schedule("unclip")
        if self._prior is not None:
            _check_width(unet, self._prior)
            self.prior: TextToImageModel = self._prior

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        return self.denoiser.device

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens of the prior; None without one."""
        return None if self._prior is None else self._prior.max_tokens

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name: besides its own, the prior's three."""
        parts = {"denoiser": self.denoiser, "vae": self.vae}
        if self._prior is None:
            return parts
        return parts | {
            "image_encoder": self._prior.image_encoder.network,
            "prior": self._prior.denoiser,
            "prior_text_encoder": self._prior.prompt_encoder.text_model,
        }

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens of the prior, 0 without one: nothing reads them."""
        return [0] * len(prompts) if self._prior is None else self._prior.num_tokens(prompts)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Draw one embedding for each of B prompts from the prior, [B, 1, E]; `""` is that of no image.

        The prior's noise is the same for every prompt and at every call, so an embedding is a function of its
        prompt. `sample_images` draws one for every image instead.

        Raises:
            UnusableModelError: If there is no prior.
        """
        return Conditioning.cat(
            [self._drawn(prompt) if prompt else self.unconditional(1) for prompt in prompts]
        )

    def encode_image_conditioning(self, pixel_values: Tensor) -> Conditioning:
        """Return the embeddings [B, 1, E] of images [B, 3, H, W] in [-1, 1].

        Raises:
            UnusableModelError: If there is no prior, whose repository holds the image encoder.
        """
        return self._condition(self._required("embed images").image_encoder.encode(pixel_values))

    def condition_on(self, prior_latents: Tensor) -> Conditioning:
        """Return the embeddings [B, 1, E] that latents of the prior [B, E, 1, 1] stand for."""
        return self._condition(self._required("read its latents").embeddings_of(prior_latents))

    def unconditional(self, num_images: int) -> Conditioning:
        """Return the embedding of no image [1, 1, E], B times: what the image encoder makes of zeros."""
        embedding = self._required("know what no image looks like").image_encoder.encode_zeros()
        return self._condition(embedding.expand(num_images, -1))

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
            encoder_hidden_states=None,
            added_cond_kwargs={"image_embeds": conditioning.prompt_embeds[:, 0].to(dtype)},
            return_dict=False,
        )[0]
        return prediction[:, : noisy_latents.shape[1]].to(noisy_latents.dtype)

    def to_pipeline(self) -> KandinskyV22Pipeline:
        """Return the same weights as a diffusers pipeline; the prior is a pipeline of its own."""
        return KandinskyV22Pipeline(
            unet=self.denoiser, scheduler=diffusion_to_scheduler(self.diffusion), movq=self.vae
        )

    def _condition(self, embeddings: Tensor) -> Conditioning:
        embeddings = embeddings[:, None].to(self.device)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)
        return Conditioning(embeddings, mask)

    def _drawn(self, prompt: str) -> Conditioning:
        prior = self._required("read prompts")
        defaults = SamplingConfig()
        latents = sample_latents(
            prior,
            JobNoise([PROMPT_SEED], prior.latent_shape),
            prior.encode_prompts([prompt]),
            prior.encode_prompts([""]),
            SamplingConfig(
                num_inference_steps=defaults.prior_num_inference_steps,
                guidance_scale=defaults.prior_guidance_scale,
            ),
        )
        return self.condition_on(latents)

    def _required(self, purpose: str) -> Kandinsky22PriorModel:
        if self._prior is None:
            raise UnusableModelError(
                f"kandinsky22-decoder was loaded without its prior and cannot {purpose}; "
                "name the prior too, such as kandinsky-community/kandinsky-2-2-prior or a local folder"
            )
        return self._prior


def load_kandinsky22_decoder(
    source: ModelSource,
    prior_source: ModelSource | None = None,
    *,
    image_size: int | None = None,
    lower_case: bool = False,
) -> Kandinsky22DecoderModel:
    """Load a decoder from a hub name or a folder, and its prior from another.

    Args:
        source: Where the decoder is, and the dtype wanted; MoVQ is float32 in any case.
        prior_source: Where the prior and the image encoder are; None: neither is loaded.
        image_size: Side of the images in pixels; None: what the denoiser was made for.
        lower_case: Whether the prior's prompts are lower-cased.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If a part is pickled, decoder and prior do not belong together, or the noise schedule
            is none of those known here.
        ValueError: If there are no images of that size.
    """
    prior = None if prior_source is None else load_kandinsky22_prior(prior_source, lower_case=lower_case)
    return Kandinsky22DecoderModel(
        source.module(UNet2DConditionModel, "unet"),
        load_movq(source),
        config_to_diffusion(
            source.json_file("scheduler/scheduler_config.json"), source=f"{source.name_or_dir}/scheduler"
        ),
        prior=prior,
        image_size=image_size,
    )


def _check_width(unet: Any, prior: Kandinsky22PriorModel) -> None:
    wanted, given = unet.config.encoder_hid_dim, prior.image_encoder.width
    if wanted != given:
        raise UnusableModelError(
            f"the decoder wants embeddings of width {wanted}, the prior gives {given}; "
            "take the prior that belongs to the decoder"
        )
