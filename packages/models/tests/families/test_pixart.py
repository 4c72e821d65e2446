from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtAlphaPipeline
from medgen_models import (
    MissingModelError,
    SamplingConfig,
    SamplingJob,
    load_model,
    sample_images,
    save_model,
)
from medgen_models.adapters import AdapterConfig, adapter_parameters, add_adapters
from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError
from medgen_models.families.pixart import PixArtModel, load_pixart
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.noise_schedulers import scheduler_to_diffusion
from medgen_models.protocol import TextToImageModel
from medgen_models.sampling import JobNoise, sample_latents
from medgen_models.text_encoder import PromptEncoder
from medgen_models.tiny.pixart import tiny_pixart, write_tiny_pixart

PROMPTS = ["an endoscopic image of polyps", "a normal cecum", ""]
TIMESTEPS = torch.tensor([3, 500, 999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pixart(tmp_path_factory.mktemp("pixart") / "tiny", seed=3)


@pytest.fixture
def model(folder: Path) -> PixArtModel:
    return load_pixart(ModelSource(str(folder)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ours(model: TextToImageModel, prompts: list[str], config: SamplingConfig) -> torch.Tensor:
    """Latents of prompts, whose noise has the seeds 0, 1, ..."""
    noise = JobNoise(range(len(prompts)), model.latent_shape)
    with torch.no_grad():
        unconditional = model.encode_prompts([""] * len(prompts))
        return sample_latents(model, noise, model.encode_prompts(prompts), unconditional, config)


def test_folder_gives_a_family_of_the_right_shapes(model: PixArtModel) -> None:
    family: TextToImageModel = model
    assert family.family == "pixart"
    assert family.image_size == 16
    assert family.latent_shape == (4, 8, 8)
    assert family.diffusion == Diffusion("epsilon", "linear", beta_start=1e-4, beta_end=0.02)
    conditioning = family.encode_prompts(PROMPTS)
    assert conditioning.prompt_embeds.shape == (3, 120, 32)
    assert conditioning.prompt_mask.sum(dim=1).tolist() == family.num_tokens(PROMPTS)
    moments = family.encode_images(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert moments.mean.shape == moments.std.shape == (3, 4, 8, 8)
    assert family.decode_latents(moments.mean).shape == (3, 3, 16, 16)
    assert set(family.components()) == {"denoiser", "text_encoder", "vae"}
    assert not any(p.requires_grad for part in family.components().values() for p in part.parameters())


def test_variance_channels_and_padding_take_no_part(model: PixArtModel) -> None:
    latents, conditioning = normal(3, 4, 8, 8), model.encode_prompts(PROMPTS)
    prediction = model.denoise(latents, TIMESTEPS, conditioning)
    whole = model.denoiser(
        latents,
        encoder_hidden_states=conditioning.prompt_embeds,
        encoder_attention_mask=conditioning.prompt_mask.float(),
        timestep=TIMESTEPS,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    assert whole.shape == (3, 8, 8, 8)
    assert torch.equal(prediction, whole[:, :4])
    padding = ~conditioning.prompt_mask.unsqueeze(-1)
    blurred = conditioning.map(lambda each: each + 5 * padding if each.is_floating_point() else each)
    torch.testing.assert_close(model.denoise(latents, TIMESTEPS, blurred), prediction)


def test_images_are_those_of_the_diffusers_pipeline(model: PixArtModel, folder: Path) -> None:
    pipeline = PixArtAlphaPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    config = SamplingConfig(num_inference_steps=6, guidance_scale=4.5)
    latents = ours(model, PROMPTS[:2], config)
    start = JobNoise([0, 1], model.latent_shape).draw()
    settings: dict[str, Any] = {
        "num_inference_steps": 6, "guidance_scale": 4.5, "latents": start, "use_resolution_binning": False,
        "clean_caption": False,
    }  # fmt: skip
    theirs = pipeline(PROMPTS[:2], output_type="latent", **settings).images
    torch.testing.assert_close(latents, theirs, rtol=1e-3, atol=1e-3)
    images = pipeline(PROMPTS[:2], output_type="pt", **settings).images
    decoded = model.decode_latents(latents).detach()
    torch.testing.assert_close(decoded.clamp(-1, 1) / 2 + 0.5, images, rtol=1e-3, atol=1e-3)
    assert (decoded.abs() < 1).float().mean() > 0.5  # clamping hides nothing
    assert (images[0] - images[1]).abs().max() > 1e-2


def test_the_model_of_1024_px_is_told_the_size_as_the_pipeline_tells_it() -> None:
    pipeline = tiny_pixart(seed=4, sample_size=128)
    pipeline.set_progress_bar_config(disable=True)
    model = PixArtModel(
        pipeline.vae,
        pipeline.transformer,
        PromptEncoder(pipeline.text_encoder, pipeline.tokenizer, 120),
        scheduler_to_diffusion(pipeline.scheduler),
        image_size=16,
    )
    assert model.denoiser.use_additional_conditions
    assert model.latent_shape == (4, 8, 8)
    latents = ours(model, PROMPTS[:2], SamplingConfig(num_inference_steps=3, guidance_scale=4.5))
    theirs = pipeline(
        PROMPTS[:2], num_inference_steps=3, guidance_scale=4.5, latents=JobNoise([0, 1], (4, 8, 8)).draw(),
        height=16, width=16, use_resolution_binning=False, clean_caption=False, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(latents, theirs, rtol=1e-3, atol=1e-3)


def test_an_image_depends_on_its_prompt_and_seed_not_on_its_batch(model: PixArtModel) -> None:
    config = SamplingConfig(num_inference_steps=3, guidance_scale=4.5, batch_size=2)
    jobs = [SamplingJob(PROMPTS[0], 7), SamplingJob(PROMPTS[1], 7), SamplingJob(PROMPTS[0], 8)]
    images = list(sample_images(model, jobs, config))
    (alone,) = sample_images(model, jobs[:1], config)
    np.testing.assert_array_equal(images[0], alone)
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_embedding_of_a_prompt_does_not_depend_on_its_neighbours(model: PixArtModel) -> None:
    together = model.encode_prompts(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = model.encode_prompts([prompt])
        torch.testing.assert_close(alone.prompt_embeds[0], together.prompt_embeds[row])
        assert torch.equal(alone.prompt_mask[0], together.prompt_mask[row])


def test_saved_model_loads_to_the_same_output(model: PixArtModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.diffusion == model.diffusion
    latents = normal(3, 4, 8, 8)
    before = model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS))
    after = loaded.denoise(latents, TIMESTEPS, loaded.encode_prompts(PROMPTS))
    assert torch.equal(before, after)
    assert torch.equal(model.decode_latents(latents), loaded.decode_latents(latents))


def test_gradient_reaches_the_adapters_of_transformer_and_text_encoder(model: PixArtModel) -> None:
    config = AdapterConfig(rank=2, targets="authors", text_encoder=True)
    add_adapters(model.components(), config, family="pixart", seed=0)
    prediction = model.denoise(normal(3, 4, 8, 8), TIMESTEPS, model.encode_prompts(PROMPTS))
    torch.autograd.backward(prediction.square().sum())
    for part in ("denoiser", "text_encoder"):
        # B is zero at the start, so the gradient of A is too.
        gradients = [p.grad for p in adapter_parameters(model.components()[part])[1::2]]
        assert all(gradient is not None and gradient.any() for gradient in gradients), part
    base = (p for n, p in model.denoiser.named_parameters() if "base_layer" in n)
    assert all(parameter.grad is None for parameter in base)


def test_weights_in_bfloat16_take_and_give_float32(folder: Path, model: PixArtModel) -> None:
    half = load_pixart(ModelSource(str(folder), dtype=torch.bfloat16))
    add_adapters(half.components(), AdapterConfig(targets="authors"), family="pixart", seed=0)
    latents = normal(3, 4, 8, 8)
    prediction = half.denoise(latents, TIMESTEPS, half.encode_prompts(PROMPTS))
    assert prediction.dtype == half.decode_latents(latents).dtype == torch.float32
    exact = model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS))
    assert 0 < (prediction - exact).norm() / exact.norm() < 0.05


def test_double_weights_compute_in_double(model: PixArtModel) -> None:
    for part in model.components().values():
        part.double()
    latents = normal(3, 4, 8, 8).double()
    assert model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS)).dtype == torch.float64
    assert model.decode_latents(latents).dtype == torch.float64


def test_other_image_sizes_and_token_limits(folder: Path) -> None:
    model = load_pixart(ModelSource(str(folder)), image_size=32, max_tokens=10)
    assert model.latent_shape == (4, 16, 16)
    conditioning = model.encode_prompts(PROMPTS[:1])
    assert conditioning.prompt_embeds.shape == (1, 10, 32)
    assert model.denoise(normal(1, 4, 16, 16), TIMESTEPS[:1], conditioning).shape == (1, 4, 16, 16)
    with pytest.raises(ValueError, match="image_size must be a multiple of 4 for this model, got 18"):
        load_pixart(ModelSource(str(folder)), image_size=18)


def test_prompts_keep_their_case_unless_told_otherwise(model: PixArtModel, folder: Path) -> None:
    lowering = load_pixart(ModelSource(str(folder)), lower_case=True)
    upper, lower = [" An Endoscopic Image"], ["an endoscopic image"]
    assert torch.equal(
        lowering.encode_prompts(upper).prompt_embeds, model.encode_prompts(lower).prompt_embeds
    )
    assert not torch.allclose(
        model.encode_prompts(upper).prompt_embeds, model.encode_prompts(lower).prompt_embeds, atol=1e-3
    )


def test_wrong_family_missing_and_pickled_parts_are_refused(model: PixArtModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    source = ModelSource(str(tmp_path / "model"))
    with pytest.raises(UnusableModelError, match="model: is of family pixart, expected dit"):
        load_base(source, family="dit")
    weights_file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(
        UnusableModelError, match=r"diffusion_pytorch_model\.bin: pickled weights may run code"
    ):
        load_base(source)
    weights_file.with_suffix(".bin").unlink()
    with pytest.raises(MissingModelError, match="model: part 'transformer' cannot be read here"):
        load_base(source)
