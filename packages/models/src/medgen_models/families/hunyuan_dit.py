"""Hunyuan-DiT (Li et al. 2024) behind the protocol: a transformer with skips that reads a BERT and mT5.

Shapes: B batch, C latent channels, H x W latent size, L prompt tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from torch import Tensor, nn
from transformers import BertModel, T5EncoderModel

from medgen_models.autoencoders import downsampling_of, latent_size_for
from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError
from medgen_models.families.parts import GaussianLatents
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import config_to_diffusion, diffusion_to_scheduler
from medgen_models.protocol import Conditioning
from medgen_models.text_encoder import PromptEncoder

# What the ordinary pipeline tells version 1.1 of every image, and the size at which positions are one patch apart.
ORIGINAL_SIZE = (1024, 1024)
CROP_CORNER = (0, 0)
POSITIONS_OF = 512


class HunyuanDitModel(GaussianLatents):
    """A Hunyuan-DiT: frozen autoencoder, transformer, BERT-type encoder, mT5.

    The transformer predicts v and, where its config says so, a variance, which is not used. Both encoders read
    every prompt at the fixed length that the transformer was built for.

    Args:
        vae: Autoencoder of SDXL.
        transformer: Denoiser.
        bert_encoder: First text encoder.
        t5_encoder: Second text encoder.
        diffusion: Noise levels.
        image_size: Side of the images in pixels; None: that of the transformer's config.

    Raises:
        UnusableModelError: If the parts do not belong together.
        ValueError: If images of that size cannot be cut into patches.
    """

    family = "hunyuan-dit"
    embeds_guidance = False

    def __init__(
        self,
        vae: AutoencoderKL,
        transformer: HunyuanDiT2DModel,
        bert_encoder: PromptEncoder,
        t5_encoder: PromptEncoder,
        diffusion: Diffusion,
        *,
        image_size: int | None = None,
    ) -> None:
        _check_encoders(transformer.config, bert_encoder, t5_encoder)
        self.vae: Any = vae.requires_grad_(False)
        self.denoiser: Any = transformer
        self.bert_encoder = bert_encoder
        self.t5_encoder = t5_encoder
        self.diffusion = diffusion
        self.image_size: int = image_size or transformer.config.sample_size * downsampling_of(vae)
        size = latent_size_for(vae, self.image_size, patch_size=transformer.config.patch_size)
        self.latent_shape = (transformer.config.in_channels, size, size)

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens of mT5; the first encoder reads the first 77 of its own."""
        return self.t5_encoder.max_tokens

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name: `text_encoder` is the BERT, `text_encoder_2` is mT5."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.bert_encoder.text_model,
            "text_encoder_2": self.t5_encoder.text_model,
            "vae": self.vae,
        }

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens of mT5, before anything is cut."""
        return self.t5_encoder.num_tokens(prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to states and masks of the BERT, and, as the second ones, of mT5."""
        first, second = self.bert_encoder.encode(prompts), self.t5_encoder.encode(prompts)
        return Conditioning(
            prompt_embeds=first.prompt_embeds,
            prompt_mask=first.prompt_mask,
            second_prompt_embeds=second.prompt_embeds,
            second_prompt_mask=second.prompt_mask,
        ).to(self.device)

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the target of `diffusion`, [B, C, H, W], in the dtype of the noisy latents.

        The transformer reads timesteps in the dtype of its weights, so bfloat16 rounds them to 8 bits.
        """
        states, mask = conditioning.second_prompt_embeds, conditioning.second_prompt_mask
        assert previous_estimate is None
        assert states is not None
        assert mask is not None
        # An adapted layer gives the weight of its base here, not that of the adapter in float32.
        dtype = self.denoiser.pos_embed.proj.weight.dtype
        prediction = self.denoiser(
            noisy_latents.to(dtype),
            timesteps.to(dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            text_embedding_mask=conditioning.prompt_mask,
            encoder_hidden_states_t5=states.to(dtype),
            text_embedding_mask_t5=mask,
            image_rotary_emb=self._rotary_embedding(noisy_latents),
            **self._size_and_style(noisy_latents, dtype),
            return_dict=False,
        )[0]
        return prediction[:, : noisy_latents.shape[1]].to(noisy_latents.dtype)

    def _rotary_embedding(self, noisy_latents: Tensor) -> Any:
        """Return cosine and sine of the patches' positions, which span the same square at every image size."""
        config = self.denoiser.config
        rows, columns = (side // config.patch_size for side in noisy_latents.shape[-2:])
        end = POSITIONS_OF // downsampling_of(self.vae) // config.patch_size
        return get_2d_rotary_pos_embed(
            config.attention_head_dim, ((0, 0), (end, end)), (rows, columns), device=noisy_latents.device
        )

    def _size_and_style(self, noisy_latents: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Return what version 1.1 is told besides: sizes and crop [B, 6], style [B]; version 1.2 knows neither."""
        if not self.denoiser.config.use_style_cond_and_image_meta_size:
            return {"image_meta_size": None, "style": None}
        num_images, _, height, width = noisy_latents.shape
        side = downsampling_of(self.vae)
        sizes = (*ORIGINAL_SIZE, height * side, width * side, *CROP_CORNER)
        # Filled on the device: a tensor made of a list would wait for it.
        columns = [noisy_latents.new_full((num_images,), each, dtype=dtype) for each in sizes]
        return {
            "image_meta_size": torch.stack(columns, dim=1),
            "style": torch.zeros(num_images, dtype=torch.long, device=noisy_latents.device),
        }

    def to_pipeline(self) -> HunyuanDiTPipeline:
        """Return the same weights as the ordinary diffusers pipeline, without its safety checker."""
        return HunyuanDiTPipeline(
            vae=self.vae,
            text_encoder=self.bert_encoder.text_model,
            tokenizer=self.bert_encoder.tokenizer,
            text_encoder_2=self.t5_encoder.text_model,
            tokenizer_2=self.t5_encoder.tokenizer,
            transformer=self.denoiser,
            scheduler=diffusion_to_scheduler(self.diffusion),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load_hunyuan_dit(source: ModelSource, *, image_size: int | None = None) -> HunyuanDitModel:
    """Load a Hunyuan-DiT from its pipeline folder or hub name.

    Args:
        source: Where it is, and the dtype wanted.
        image_size: Side of the images in pixels; None: what the transformer was made for.

    Raises:
        MissingModelError: If a part is not to be had.
        UnusableModelError: If weights are pickled, parts do not belong together, or the schedule is unknown here.
        ValueError: If there are no images of that size.
    """
    transformer = source.module(HunyuanDiT2DModel, "transformer")
    return HunyuanDitModel(
        source.module(AutoencoderKL, "vae"),
        transformer,
        PromptEncoder(
            source.module(BertModel, "text_encoder"),
            source.tokenizer("tokenizer"),
            transformer.config.text_len,
        ),
        PromptEncoder(
            source.module(T5EncoderModel, "text_encoder_2"),
            source.tokenizer("tokenizer_2"),
            transformer.config.text_len_t5,
        ),
        config_to_diffusion(
            source.json_file("scheduler/scheduler_config.json"), source=f"{source.name_or_dir}/scheduler"
        ),
        image_size=image_size,
    )


def _check_encoders(config: Any, bert_encoder: PromptEncoder, t5_encoder: PromptEncoder) -> None:
    encoders = {
        "text_encoder": (bert_encoder, config.text_len, config.cross_attention_dim),
        "text_encoder_2": (t5_encoder, config.text_len_t5, config.cross_attention_dim_t5),
    }
    for part, (encoder, num_tokens, width) in encoders.items():
        if (encoder.max_tokens, encoder.width) != (num_tokens, width):
            raise UnusableModelError(
                f"{part}: the denoiser of Hunyuan-DiT wants {num_tokens} tokens of width {width}, got "
                f"{encoder.max_tokens} of {encoder.width}; take both from one folder"
            )
