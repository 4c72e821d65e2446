"""The colour loss of adapted models, prompts to pixels: gradients of every adapter, text encoders' included."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from medgen_models.adapters.config import AdapterConfig
from medgen_models.adapters.targets import text_parts
from medgen_models.adapters.wiring import adapter_parameters, add_adapters
from medgen_models.diffusion import FlowMatching
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import diffusion_to_scheduler
from medgen_models.protocol import Conditioning
from medgen_models.sampling import JobNoise, apply_step, guided_prediction
from medgen_models.tiny.flux import write_tiny_flux
from medgen_models.tiny.hunyuan_dit import write_tiny_hunyuan_dit
from medgen_models.tiny.kandinsky3 import write_tiny_kandinsky3
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_decoder, write_tiny_kandinsky22_prior
from medgen_models.tiny.pixart import write_tiny_pixart
from medgen_models.tiny.sdxl import write_tiny_sdxl
from medgen_models.tiny.stable_diffusion import write_tiny_sd
from medgen_training.blocks import checkpoint_blocks
from medgen_training.colour_statistics import ColourStatistics, colour_loss, colour_statistics
from medgen_training.hldf import HldfConfig, hldf_gradients_of_prompts, sampler_steps
from torch import Tensor, nn

PROMPTS = ["a polyp in the upper left"]
CONFIG = HldfConfig(num_inference_steps=20)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "pixart": write_tiny_pixart,
    "sd": write_tiny_sd,
    "sdxl": write_tiny_sdxl,
    "hunyuan-dit": write_tiny_hunyuan_dit,
    "kandinsky22-decoder": write_tiny_kandinsky22_decoder,
    "kandinsky3": write_tiny_kandinsky3,
    "flux": write_tiny_flux,
}


@pytest.fixture(params=list(WRITERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A miniature in float64, its denoiser and text encoders adapted, no adapter at zero."""
    options = {}
    if request.param == "kandinsky22-decoder":  # which knows from its prior what no image looks like
        options["prior_source"] = ModelSource(str(write_tiny_kandinsky22_prior(tmp_path / "prior")))
    loaded = load_base(ModelSource(str(WRITERS[request.param](tmp_path / "model"))), options=options)
    parts = loaded.components()
    for network in parts.values():
        network.double()
    adapter = AdapterConfig(rank=2, targets="attention", text_encoder=bool(text_parts(loaded.family)))
    add_adapters(parts, adapter, family=loaded.family, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(loaded):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return loaded


def trained_parameters(model: Any) -> list[nn.Parameter]:
    """Return the adapters of the denoiser, then those of the text encoders."""
    networks = model.components()
    texts = [name for name in networks if name.startswith("text_encoder")]
    return [p for name in ("denoiser", *texts) for p in adapter_parameters(networks[name])]


def draw_with_diffusers(model: Any, noise: Tensor) -> Tensor:
    """Encode prompts and draw latents with the scheduler of diffusers, all in one graph."""
    conditioning, unconditional = model.encode_prompts(PROMPTS), model.encode_prompts([""])
    scheduler = new_scheduler(model)
    latents = noise
    for timestep in scheduler.timesteps:
        timesteps = timestep.expand(len(noise))
        if model.embeds_guidance:
            prompted = conditioning.with_guidance(CONFIG.guidance_scale)
            model_pred = model.denoise(latents, timesteps, prompted)
        else:
            without = model.denoise(latents, timesteps, unconditional)
            model_pred = model.denoise(latents, timesteps, conditioning)
            model_pred = without + CONFIG.guidance_scale * (model_pred - without)
        latents = scheduler.step(model_pred, timestep, latents).prev_sample
    return latents


def new_scheduler(model: Any) -> Any:
    if isinstance(model.diffusion, FlowMatching):
        levels = [1 - i / CONFIG.num_inference_steps for i in range(CONFIG.num_inference_steps)]
        scheduler = FlowMatchEulerDiscreteScheduler(shift=model.diffusion.shift)
        scheduler.set_timesteps(sigmas=levels)
        return scheduler
    kept = diffusion_to_scheduler(model.diffusion).config
    scheduler = DPMSolverMultistepScheduler.from_config(kept, timestep_spacing="linspace")
    scheduler.set_timesteps(CONFIG.num_inference_steps)
    return scheduler


def draw(model: Any, noise: Tensor) -> Tensor:
    """Encode prompts and draw latents with the sampler users draw images with, all in one graph."""
    conditioning, unconditional = model.encode_prompts(PROMPTS), model.encode_prompts([""])
    both = Conditioning.cat([unconditional, conditioning])
    no_noise = JobNoise((), model.latent_shape)
    latents, previous = noise, None
    for step in sampler_steps(model, CONFIG):
        model_pred = guided_prediction(model, latents, step.timestep, both, CONFIG.guidance_scale, previous)
        timesteps = torch.full((len(latents),), step.timestep)
        estimate = model.diffusion.clean_estimate(model_pred, latents, timesteps)
        latents, previous = apply_step(step, latents, estimate, previous, no_noise), estimate
    return latents


def assert_same_as_autograd(model: Any, drawn: Callable[[Any, Tensor], Tensor], tolerance: float) -> None:
    """The largest difference within a network is at most the tolerance times the largest number there."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(1, *model.latent_shape, generator=generator, dtype=torch.float64)
    target = ColourStatistics(*torch.rand(2, 1, 3, generator=generator, dtype=torch.float64).unbind())
    parameters = trained_parameters(model)
    result = hldf_gradients_of_prompts(model, PROMPTS, target, noise, CONFIG, parameters)

    generated = colour_statistics(model.decode_latents(drawn(model, noise)))
    loss = colour_loss(generated, target, "sum")
    expected = torch.autograd.grad(CONFIG.factor * loss.mean(), parameters, allow_unused=True)
    torch.testing.assert_close(result.loss, loss.detach(), rtol=tolerance, atol=0)
    first = 0
    for name in ("denoiser", *(part for part in model.components() if part.startswith("text_encoder"))):
        last = first + len(adapter_parameters(model.components()[name]))
        found = [each for each in expected[first:last] if each is not None]
        largest = max((float(each.abs().max()) for each in found), default=0.0)
        assert largest > 0 or first == last, f"{name} has adapters that nothing depends on"
        for ours, theirs in zip(result.gradients[first:last], expected[first:last], strict=True):
            if ours is not None and theirs is not None:
                assert float((ours - theirs).abs().max()) <= tolerance * largest, name
        first = last
    assert first == len(parameters)
    assert [ours is None for ours in result.gradients] == [theirs is None for theirs in expected]


# The other schedules reach noise levels at which the float32 of the schedulers weighs more.
@pytest.mark.parametrize("model", ["pixart", "sd", "sdxl", "flux"], indirect=True)
def test_gradients_are_those_of_autograd_through_the_scheduler_of_diffusers(model: Any) -> None:
    assert_same_as_autograd(model, draw_with_diffusers, 1e-6)


def test_gradients_are_those_of_autograd_through_the_same_sampler(model: Any) -> None:
    assert_same_as_autograd(model, draw, 1e-10)


def test_checkpointed_blocks_have_the_same_gradients(model: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, *model.latent_shape, generator=generator, dtype=torch.float64)
    target = ColourStatistics(*torch.rand(2, 1, 3, generator=generator, dtype=torch.float64).unbind())
    parameters, config = trained_parameters(model), HldfConfig(num_inference_steps=3)

    whole = hldf_gradients_of_prompts(model, PROMPTS, target, noise, config, parameters)
    checkpoint_blocks(model.denoiser)
    checkpointed = hldf_gradients_of_prompts(model, PROMPTS, target, noise, config, parameters)

    assert any(gradient is not None and gradient.any() for gradient in whole.gradients)
    torch.testing.assert_close(checkpointed.gradients, whole.gradients)
