"""Class-conditional DiT behind the protocol that trainers and samplers know."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from medgen_models.autoencoders import downsampling_of
from medgen_models.class_dit.classes import ClassNames
from medgen_models.class_dit.pipeline import ClassDitPipeline
from medgen_models.class_dit.presets import DIT_PRESETS, DitPreset, DitPresetName
from medgen_models.class_dit.transformer import ClassDit
from medgen_models.diffusion import Diffusion
from medgen_models.errors import MissingModelError
from medgen_models.families.parts import GaussianLatents
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import diffusion_to_scheduler, scheduler_to_diffusion
from medgen_models.protocol import Conditioning


class DitModel(GaussianLatents):
    """A class-conditional DiT: frozen autoencoder, denoiser, class names.

    A prompt is a class name or a text that names one class. `denoise_with_variance`
    gives, beside the prediction, what the variational bound trains; samplers here do without it.

    Raises:
        ValueError: If the autoencoder, the denoiser and the class names do not belong together.
    """

    family = "dit"
    embeds_guidance = False
    max_tokens = None

    def __init__(
        self, vae: AutoencoderKL, transformer: ClassDit, class_names: Sequence[str], diffusion: Diffusion
    ) -> None:
        self.class_names = ClassNames(class_names)
        channels, size = transformer.config.latent_channels, transformer.config.sample_size
        if len(class_names) != transformer.config.num_classes:
            raise ValueError(
                f"the denoiser has {transformer.config.num_classes} classes, got {len(class_names)} names: "
                f"{', '.join(class_names)}"
            )
        if vae.config.latent_channels != channels:
            raise ValueError(
                f"the denoiser wants {channels} latent channels, the autoencoder has {vae.config.latent_channels}; "
                "use the autoencoder of Stable Diffusion 1"
            )
        self.vae = vae.requires_grad_(False)
        self.denoiser = transformer
        self.diffusion = diffusion
        self.latent_shape = (channels, size, size)
        self.image_size = size * downsampling_of(vae)

    def components(self) -> dict[str, nn.Module]:
        """Return every network by part name."""
        return {"denoiser": self.denoiser, "vae": self.vae}

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return 1 for every prompt: a class is one token."""
        return [1] * len(prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the class ids of B prompts as embeddings [B, 1, 1], float32; `""` is the null class.

        Raises:
            ValueError: If a prompt names no class, or several.
        """
        ids = torch.tensor([self.class_names.class_of(prompt) for prompt in prompts])
        return Conditioning(
            prompt_embeds=ids.float().view(-1, 1, 1),
            prompt_mask=torch.ones(len(prompts), 1, dtype=torch.bool),
        ).to(self.device)

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the target of `diffusion`, [B, C, H, W]; there is no self-conditioning to use an estimate."""
        assert previous_estimate is None
        return self.denoise_with_variance(noisy_latents, timesteps, conditioning)[0]

    def denoise_with_variance(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """Predict the target of `diffusion` and where the log variance lies, each [B, C, H, W].

        The second is -1 at the lower bound of the log variance and 1 at the upper one, not clamped.
        """
        class_ids = conditioning.prompt_embeds[:, 0, 0].round().long()
        model_pred, variance_pred = self.denoiser(noisy_latents, timesteps, class_ids).chunk(2, dim=1)
        return model_pred, variance_pred

    def to_pipeline(self) -> ClassDitPipeline:
        """Return the same weights as a diffusers pipeline."""
        return ClassDitPipeline(
            vae=self.vae,
            transformer=self.denoiser,
            scheduler=diffusion_to_scheduler(self.diffusion),
            class_names=self.class_names.names,
        )


def new_dit(
    preset: DitPresetName | DitPreset, vae: AutoencoderKL, class_names: Sequence[str], *, seed: int
) -> DitModel:
    """Build an untrained DiT on a trained autoencoder; its weights are a function of the seed alone.

    Raises:
        ValueError: If the autoencoder does not give the latents the preset is made for, or class names clash.
    """
    shape = DIT_PRESETS[preset] if isinstance(preset, str) else preset
    if downsampling_of(vae) != shape.downsampling:
        raise ValueError(
            f"the autoencoder makes images {downsampling_of(vae)} times smaller, the preset wants "
            f"{shape.downsampling}; use the autoencoder of Stable Diffusion 1"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
        transformer = shape.build_transformer(len(ClassNames(class_names).names))
    return DitModel(vae.eval(), transformer.eval(), class_names, shape.diffusion)


def untrained_dit(
    preset: DitPresetName, autoencoder: str, class_names: Sequence[str], *, seed: int
) -> DitModel:
    """Build an untrained DiT on an autoencoder by hub name or folder."""
    return new_dit(preset, load_autoencoder(autoencoder), class_names, seed=seed)


def load_autoencoder(name_or_dir: str) -> AutoencoderKL:
    """Load a Stable Diffusion autoencoder: its own folder or hub name, or the folder of a pipeline that has one.

    Raises:
        MissingModelError: If there are no safetensors weights at that place.
    """
    subfolder = "vae" if (Path(name_or_dir) / "vae").is_dir() else None
    try:
        return AutoencoderKL.from_pretrained(name_or_dir, subfolder=subfolder, use_safetensors=True)
    except OSError as error:
        raise MissingModelError(
            f"autoencoder {name_or_dir!r}: no config and safetensors weights found here; give a local folder that "
            "holds config.json and diffusion_pytorch_model.safetensors, or allow the download once"
        ) from error


def load_dit(source: ModelSource) -> DitModel:
    """Load a DiT from its pipeline folder."""
    return model_of_pipeline(ClassDitPipeline.from_pretrained(source.name_or_dir, use_safetensors=True))


def model_of_pipeline(pipeline: ClassDitPipeline) -> DitModel:
    """Return the weights of a pipeline behind the protocol."""
    return DitModel(
        pipeline.vae.eval(),
        pipeline.transformer.eval(),
        pipeline.config.class_names,
        scheduler_to_diffusion(pipeline.scheduler),
    )
