"""MSDM behind the protocol that trainers and samplers know."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medgen_models.diffusion import Diffusion
from medgen_models.model_source import ModelSource
from medgen_models.msdm.pipeline import MsdmPipeline
from medgen_models.msdm.presets import PRESETS, MsdmPreset, MsdmPresetName
from medgen_models.msdm.unet import MsdmUNet
from medgen_models.msdm.vae import MsdmAutoencoder
from medgen_models.noise_schedulers import diffusion_to_scheduler, scheduler_to_diffusion
from medgen_models.protocol import Conditioning, LatentMoments
from medgen_models.text_encoder import PromptEncoder, load_prompt_encoder


class MsdmModel:
    """An MSDM: autoencoder, denoiser, frozen text encoder."""

    family = "msdm"
    embeds_guidance = False
    decodes_to_pixels = True

    def __init__(
        self, vae: MsdmAutoencoder, unet: MsdmUNet, prompt_encoder: PromptEncoder, diffusion: Diffusion
    ) -> None:
        self.vae = vae
        self.denoiser = unet
        self.prompt_encoder = prompt_encoder
        self.diffusion = diffusion
        size = unet.config.sample_size
        self.latent_shape = (unet.config.latent_channels, size, size)
        self.image_size = size * vae.downsampling
        self.self_conditioning: bool = unet.config.self_conditioning

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights lie."""
        return self.denoiser.device

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens."""
        return self.prompt_encoder.max_tokens

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        return {
            "denoiser": self.denoiser,
            "text_encoder": self.prompt_encoder.text_model,
            "vae": self.vae,
        }

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the length of every prompt in tokens, before anything is cut."""
        return self.prompt_encoder.num_tokens(prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to states [B, L, T]."""
        return self.prompt_encoder.encode(prompts).to(self.device)

    def encode_images(self, pixel_values: Tensor) -> LatentMoments:
        """Encode images [B, 3, H, W] in [-1, 1] to normalised moments."""
        return self.vae.encode(pixel_values)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode normalised latents [B, C, H, W] to images [B, 3, H, W], not clamped."""
        return self.vae.decode(latents)

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the target of `diffusion`, [B, C, H, W]."""
        return self.denoiser(
            noisy_latents, timesteps, conditioning.prompt_embeds, conditioning.prompt_mask, previous_estimate
        )

    def to_pipeline(self) -> MsdmPipeline:
        """Return the same weights as a diffusers pipeline."""
        return MsdmPipeline(
            vae=self.vae,
            unet=self.denoiser,
            text_encoder=self.prompt_encoder.text_model,
            tokenizer=self.prompt_encoder.tokenizer,
            scheduler=diffusion_to_scheduler(self.diffusion),
        )


def new_msdm(preset: MsdmPresetName | MsdmPreset, prompt_encoder: PromptEncoder, *, seed: int) -> MsdmModel:
    """Build an untrained MSDM whose weights are a function of the seed alone."""
    shape = PRESETS[preset] if isinstance(preset, str) else preset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
        vae = shape.build_autoencoder()
        unet = shape.build_unet(prompt_encoder.width)
    return MsdmModel(vae.eval(), unet.eval(), prompt_encoder, shape.diffusion)


def load_msdm(source: ModelSource) -> MsdmModel:
    """Load an MSDM from its pipeline folder."""
    pipeline = MsdmPipeline.from_pretrained(source.name_or_dir, use_safetensors=True)
    return MsdmModel(
        pipeline.vae.eval(),
        pipeline.unet.eval(),
        PromptEncoder(pipeline.text_encoder, pipeline.tokenizer, pipeline.tokenizer.model_max_length),
        scheduler_to_diffusion(pipeline.scheduler),
    )


def untrained_msdm(preset: MsdmPresetName | MsdmPreset, text_encoder: str, *, seed: int) -> MsdmModel:
    """Build an untrained MSDM with a text encoder by name or folder."""
    shape = PRESETS[preset] if isinstance(preset, str) else preset
    return new_msdm(shape, load_prompt_encoder(text_encoder, max_tokens=shape.max_tokens), seed=seed)
