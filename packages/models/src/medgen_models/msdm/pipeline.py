"""MSDM as a diffusers pipeline: saved, loaded and called like any other."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from medgen_models.msdm.unet import MsdmUNet
from medgen_models.msdm.vae import MsdmAutoencoder


class MsdmPipeline(DiffusionPipeline):
    """Text-to-image pipeline of MSDM."""

    def __init__(
        self,
        vae: MsdmAutoencoder,
        unet: MsdmUNet,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 4.5,
    ) -> ImagePipelineOutput:
        """Draw one image per prompt.

        Args:
            prompt: One prompt or several.
            seeds: One seed per prompt (default: 0, 1, 2, ...); the same prompt and seed give the same image.
            num_inference_steps: Steps of DPM-Solver++(2M).
            guidance_scale: Classifier-free guidance; 1 switches it off.
        """
        from medgen_models.families.msdm import MsdmModel
        from medgen_models.noise_schedulers import scheduler_to_diffusion
        from medgen_models.sampling import SamplingConfig, SamplingJob, sample_images
        from medgen_models.text_encoder import PromptEncoder

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = range(len(prompts)) if seeds is None else seeds
        encoder = PromptEncoder(self.text_encoder, self.tokenizer, self.tokenizer.model_max_length)
        model = MsdmModel(self.vae, self.unet, encoder, scheduler_to_diffusion(self.scheduler))
        config = SamplingConfig(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        jobs = [SamplingJob(text, seed) for text, seed in zip(prompts, seeds, strict=True)]
        return ImagePipelineOutput(
            images=[Image.fromarray(image) for image in sample_images(model, jobs, config)]
        )
