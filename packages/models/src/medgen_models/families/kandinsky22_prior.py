"""The prior of Kandinsky 2.2 (Razzhigaev et al. 2023) behind the protocol: from a prompt to an image embedding.

Its latents are CLIP embeddings of images, normalised and written as [E, 1, 1]: x = (e - mean) / std, with the
statistics that the prior's weights carry  (Ramesh et al. 2022, section 2.2).

Shapes: B batch, L prompt tokens, T width of the text encoder, E width of the embeddings.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError
from medgen_models.families.parts import OneTextEncoder
from medgen_models.image_encoder import ClipImageEncoder, load_clip_image_encoder
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import config_to_diffusion
from medgen_models.protocol import Conditioning, LatentMoments
from medgen_models.text_encoder import PromptEncoder

PIPELINE_CLASS = "KandinskyV22PriorPipeline"

PriorNoiseSchedule = Literal["authors", "unclip"]

# MMCP's script noises embeddings by the schedule in the decoder's repository.
AUTHORS_DIFFUSION = Diffusion("sample", "linear", beta_start=0.00085, beta_end=0.012)

CLIP_SAMPLE_RANGE = 5.0  # the ordinary scheduler clamps its estimates there, in standard deviations


class Kandinsky22PriorModel(OneTextEncoder):
    """A prior: transformer over text and a noisy embedding, text and image tower of one CLIP.

    The transformer predicts the clean embedding. Its published weights, and the ordinary pipeline when it samples,
    have the cosine schedule (`unclip`); MMCP trained with the decoder's instead (`authors`). Estimates are not
    clamped here between steps.

    Args:
        prior: Denoiser.
        prompt_encoder: Text tower; its states and its projected pooled state condition.
        image_encoder: Image tower.
        diffusion: Noise levels that the prior was made for.
        image_size: Side of the images in pixels, which are resized to what the tower sees; None: that very size.
        prior_noise_schedule: Whether `diffusion` is that, or what MMCP trained with.

    Raises:
        UnusableModelError: If the parts do not belong together.
        ValueError: If the prior does not predict clean embeddings, or reads prompts of another length.
    """

    family = "kandinsky22-prior"
    self_conditioning = False
    embeds_guidance = False
    decodes_to_pixels = False

    def __init__(
        self,
        prior: PriorTransformer,
        prompt_encoder: PromptEncoder,
        image_encoder: ClipImageEncoder,
        diffusion: Diffusion,
        *,
        image_size: int | None = None,
        prior_noise_schedule: PriorNoiseSchedule = "unclip",
    ) -> None:
        _check_parts(prior, prompt_encoder, image_encoder, diffusion)
        self.denoiser: Any = prior
        self.prompt_encoder = prompt_encoder
        self.image_encoder = image_encoder
        self.prior_noise_schedule = prior_noise_schedule
        self._unclip_diffusion = diffusion
        self.image_size = image_size or image_encoder.image_size
        self.latent_shape = (image_encoder.width, 1, 1)

    @property
    def diffusion(self) -> Diffusion:
        """Noise levels, by `prior_noise_schedule`."""
        return AUTHORS_DIFFUSION if self.prior_noise_schedule == "authors" else self._unclip_diffusion

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        return self.denoiser.device

    def with_noise_schedule(self, name: PriorNoiseSchedule) -> "Kandinsky22PriorModel":
        """Return the same networks under another noise schedule."""
        return Kandinsky22PriorModel(
            self.denoiser,
            self.prompt_encoder,
            self.image_encoder,
            self._unclip_diffusion,
            image_size=self.image_size,
            prior_noise_schedule=name,
        )

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.prompt_encoder.text_model,
            "image_encoder": self.image_encoder.network,
        }

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to states [B, L, T], their masks, and projected pooled states [B, E]."""
        return self.prompt_encoder.encode(prompts).to(self.device)

    def encode_images(self, pixel_values: Tensor) -> LatentMoments:
        """Encode images [B, 3, H, W] in [-1, 1] to normalised embeddings [B, E, 1, 1] of no spread."""
        embeddings = self.image_encoder.encode(pixel_values)
        mean, std = self._statistics(embeddings)
        latents = ((embeddings - mean) / std)[:, :, None, None]
        return LatentMoments(latents, torch.zeros_like(latents))

    def embeddings_of(self, latents: Tensor) -> Tensor:
        """Return the image embeddings [B, E] that latents [B, E, 1, 1] stand for."""
        mean, std = self._statistics(latents)
        return latents.flatten(1) * std + mean

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Refuse: an embedding is no image.

        Raises:
            UnusableModelError: Always.
        """
        raise UnusableModelError(
            f"latents {list(latents.shape)} of kandinsky22-prior are image embeddings; "
            "give the prior to a kandinsky22-decoder, which draws the images"
        )

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean latents, [B, E, 1, 1], in the dtype of the noisy ones."""
        assert previous_estimate is None
        assert conditioning.pooled_prompt_embeds is not None
        # An adapted layer gives the weight of its base here, not that of the adapter in float32.
        dtype = self.denoiser.proj_in.weight.dtype
        prediction = self.denoiser(
            noisy_latents.flatten(1).to(dtype),
            timestep=timesteps,
            proj_embedding=conditioning.pooled_prompt_embeds.to(dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            attention_mask=conditioning.prompt_mask,
            return_dict=False,
        )[0]
        return prediction[:, :, None, None].to(noisy_latents.dtype)

    def to_pipeline(self) -> KandinskyV22PriorPipeline:
        """Return the same weights as a diffusers pipeline, which always has the cosine schedule."""
        return KandinskyV22PriorPipeline(
            prior=self.denoiser,
            image_encoder=self.image_encoder.network,
            text_encoder=self.prompt_encoder.text_model,
            tokenizer=self.prompt_encoder.tokenizer,
            scheduler=UnCLIPScheduler(
                num_train_timesteps=self._unclip_diffusion.num_timesteps,
                prediction_type="sample",
                clip_sample_range=CLIP_SAMPLE_RANGE,
            ),
            image_processor=self.image_encoder.processor(),
        )

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of embeddings, [1, E]; facts, even where all weights are trained."""
        mean, std = self.denoiser.clip_mean, self.denoiser.clip_std
        return mean.detach().to(like), std.detach().to(like)


def load_kandinsky22_prior(
    source: ModelSource,
    *,
    image_size: int | None = None,
    lower_case: bool = False,
    prior_noise_schedule: PriorNoiseSchedule = "unclip",
) -> Kandinsky22PriorModel:
    """Load a prior from a hub name or a folder.

    Args:
        source: Where it is, and the dtype wanted.
        image_size: Side of the images in pixels; None: what the image tower sees.
        lower_case: Whether prompts are lower-cased.
        prior_noise_schedule: The prior's own noise levels, or those of MMCP's code.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If it is no prior, a part is pickled, or parts do not belong together.
    """
    if source.pipeline_class() != PIPELINE_CLASS:
        raise UnusableModelError(
            f"{source.name_or_dir}/model_index.json: field '_class_name' is {source.pipeline_class()!r}, expected "
            f"{PIPELINE_CLASS!r}; the prior has a repository of its own, beside that of the decoder"
        )
    prior = source.module(PriorTransformer, "prior")
    # The config of an UnCLIP scheduler need not name the one schedule that it can have.
    scheduler = {
        "beta_schedule": "squaredcos_cap_v2",
        **source.json_file("scheduler/scheduler_config.json"),
    }
    return Kandinsky22PriorModel(
        prior,
        PromptEncoder(
            source.module(CLIPTextModelWithProjection, "text_encoder"),
            source.tokenizer("tokenizer"),
            prior.config.num_embeddings,
            uses_mask=False,
            lower_case=lower_case,
        ),
        load_clip_image_encoder(source),
        config_to_diffusion(scheduler, source=f"{source.name_or_dir}/scheduler"),
        image_size=image_size,
        prior_noise_schedule=prior_noise_schedule,
    )


def _check_parts(
    prior: Any, prompt_encoder: PromptEncoder, image_encoder: ClipImageEncoder, diffusion: Diffusion
) -> None:
    width = prior.config.embedding_dim
    for tower, given in (("text", prompt_encoder.width), ("image", image_encoder.width)):
        if given != width:
            raise UnusableModelError(
                f"the prior wants embeddings of width {width}, the {tower} encoder gives {given}; "
                "take both from one folder"
            )
    if prompt_encoder.max_tokens != prior.config.num_embeddings:
        raise ValueError(
            f"max_tokens must be {prior.config.num_embeddings}, which the prior was made for, "
            f"got {prompt_encoder.max_tokens}"
        )
    if diffusion.prediction_type != "sample":
        raise ValueError(
            f"a prior predicts clean embeddings, expected prediction_type sample, got {diffusion.prediction_type}"
        )
