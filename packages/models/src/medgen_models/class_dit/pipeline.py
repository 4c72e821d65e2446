"""Class-conditional DiT as a diffusers pipeline: saved, loaded and called like any other."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from medgen_models.class_dit.transformer import ClassDit


class ClassDitPipeline(DiffusionPipeline):
    """Class-to-image pipeline of DiT; the class names stand in `model_index.json`, in the order of their ids."""

    def __init__(
        self,
        vae: AutoencoderKL,
        transformer: ClassDit,
        scheduler: DDIMScheduler,
        class_names: Sequence[str] = (),  # optional in form alone: diffusers takes it else for a module
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler)
        self.register_to_config(class_names=list(class_names))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 4.0,
        guided_channels: int | None = 3,
    ) -> ImagePipelineOutput:
        """Draw one image per prompt.

        Args:
            prompt: One class name or several, or texts that name one class each.
            seeds: One seed per prompt (default: 0, 1, 2, ...); the same class and seed give the same image.
            num_inference_steps: Steps of DPM-Solver++(2M).
            guidance_scale: Classifier-free guidance; 1 switches it off.
            guided_channels: Guide the first so many of the latent channels, as DiT's code does; None guides all.

        Raises:
            ValueError: If a prompt names no class, or several.
        """
        from medgen_models.families.dit import model_of_pipeline
        from medgen_models.sampling import SamplingConfig, SamplingJob, sample_images

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = range(len(prompts)) if seeds is None else seeds
        config = SamplingConfig(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guided_channels=guided_channels,
        )
        jobs = [SamplingJob(text, seed) for text, seed in zip(prompts, seeds, strict=True)]
        images = sample_images(model_of_pipeline(self), jobs, config)
        return ImagePipelineOutput(images=[Image.fromarray(image) for image in images])
