from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
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
from medgen_models.families.stable_diffusion import StableDiffusionModel, load_sd
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import TextToImageModel
from medgen_models.sampling import JobNoise, sample_latents
from medgen_models.tiny.stable_diffusion import write_tiny_sd
from safetensors.torch import load_file, save_file

PROMPTS = ["an endoscopic image of polyps", "a normal cecum", ""]
TIMESTEPS = torch.tensor([3, 500, 999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd(tmp_path_factory.mktemp("sd") / "tiny", seed=3)


@pytest.fixture
def model(folder: Path) -> StableDiffusionModel:
    return load_sd(ModelSource(str(folder)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_folder_gives_a_family_of_the_right_shapes(model: StableDiffusionModel) -> None:
    family: TextToImageModel = model
    assert family.family == "sd"
    assert family.image_size == 16
    assert family.latent_shape == (4, 8, 8)
    assert family.diffusion == Diffusion("epsilon", "scaled-linear", beta_start=0.00085, beta_end=0.012)
    assert family.max_tokens == 77
    conditioning = family.encode_prompts(PROMPTS)
    assert conditioning.prompt_embeds.shape == (3, 77, 32)
    assert conditioning.prompt_mask.sum(dim=1).tolist() == family.num_tokens(PROMPTS)
    moments = family.encode_images(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert moments.mean.shape == moments.std.shape == (3, 4, 8, 8)
    assert family.decode_latents(moments.mean).shape == (3, 3, 16, 16)
    assert family.denoise(moments.mean, TIMESTEPS, conditioning).shape == (3, 4, 8, 8)
    assert set(family.components()) == {"denoiser", "text_encoder", "vae"}
    assert not any(p.requires_grad for part in family.components().values() for p in part.parameters())


def test_images_are_those_of_the_diffusers_pipeline(model: StableDiffusionModel, folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    noise = JobNoise([0, 1], model.latent_shape)
    with torch.no_grad():
        latents = sample_latents(
            model,
            noise,
            model.encode_prompts(PROMPTS[:2]),
            model.encode_prompts(["", ""]),
            SamplingConfig(num_inference_steps=6, guidance_scale=7.5),
        )
        decoded = model.decode_latents(latents)
    settings = {
        "num_inference_steps": 6, "guidance_scale": 7.5, "latents": JobNoise([0, 1], model.latent_shape).draw(),
    }  # fmt: skip
    theirs = pipeline(PROMPTS[:2], output_type="latent", **settings).images
    torch.testing.assert_close(latents, theirs, rtol=1e-3, atol=1e-3)
    images = pipeline(PROMPTS[:2], output_type="pt", **settings).images
    torch.testing.assert_close(decoded.clamp(-1, 1) / 2 + 0.5, images, rtol=1e-3, atol=1e-3)
    assert (decoded.abs() < 1).float().mean() > 0.5  # clamping hides nothing
    assert (images[0] - images[1]).abs().max() > 1e-2


def test_an_image_depends_on_its_prompt_and_seed_not_on_its_batch(model: StableDiffusionModel) -> None:
    config = SamplingConfig(num_inference_steps=3, guidance_scale=7.5, batch_size=2)
    jobs = [SamplingJob(PROMPTS[0], 7), SamplingJob(PROMPTS[1], 7), SamplingJob(PROMPTS[0], 8)]
    images = list(sample_images(model, jobs, config))
    (alone,) = sample_images(model, jobs[:1], config)
    np.testing.assert_array_equal(images[0], alone)
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_embedding_of_a_prompt_does_not_depend_on_its_neighbours(model: StableDiffusionModel) -> None:
    together = model.encode_prompts(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = model.encode_prompts([prompt])
        torch.testing.assert_close(alone.prompt_embeds[0], together.prompt_embeds[row])


def test_saved_model_loads_to_the_same_output(model: StableDiffusionModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.diffusion == model.diffusion
    assert loaded.max_tokens == model.max_tokens
    latents = normal(3, 4, 8, 8)
    before = model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS))
    after = loaded.denoise(latents, TIMESTEPS, loaded.encode_prompts(PROMPTS))
    assert torch.equal(before, after)
    assert torch.equal(model.decode_latents(latents), loaded.decode_latents(latents))


def test_text_weights_under_their_older_names_are_read(
    model: StableDiffusionModel, folder: Path, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model")
    weights_file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    state = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in load_file(weights_file).items()}
    save_file(state, weights_file, metadata={"format": "pt"})
    older = load_sd(ModelSource(str(tmp_path / "model")))
    assert torch.equal(
        older.encode_prompts(PROMPTS).prompt_embeds, model.encode_prompts(PROMPTS).prompt_embeds
    )


def test_gradient_reaches_the_adapters_of_unet_and_text_encoder(model: StableDiffusionModel) -> None:
    add_adapters(model.components(), AdapterConfig(rank=2, text_encoder=True), family="sd", seed=0)
    prediction = model.denoise(normal(3, 4, 8, 8), TIMESTEPS, model.encode_prompts(PROMPTS))
    torch.autograd.backward(prediction.square().sum())
    for part in ("denoiser", "text_encoder"):
        # B is zero at the start, so the gradient of A is too.
        gradients = [p.grad for p in adapter_parameters(model.components()[part])[1::2]]
        assert gradients
        assert all(gradient is not None and gradient.any() for gradient in gradients), part
    base = (p for n, p in model.denoiser.named_parameters() if "base_layer" in n)
    assert all(parameter.grad is None for parameter in base)


def test_weights_in_bfloat16_take_and_give_float32(folder: Path, model: StableDiffusionModel) -> None:
    half = load_sd(ModelSource(str(folder), dtype=torch.bfloat16))
    add_adapters(half.components(), AdapterConfig(targets=("to_q", "conv_in")), family="sd", seed=0)
    latents = normal(3, 4, 8, 8)
    prediction = half.denoise(latents, TIMESTEPS, half.encode_prompts(PROMPTS))
    assert prediction.dtype == half.decode_latents(latents).dtype == torch.float32
    exact = model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS))
    assert 0 < (prediction - exact).norm() / exact.norm() < 0.05


def test_double_weights_compute_in_double(model: StableDiffusionModel) -> None:
    for part in model.components().values():
        part.double()
    latents = normal(3, 4, 8, 8).double()
    assert model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS)).dtype == torch.float64
    assert model.decode_latents(latents).dtype == torch.float64


def test_other_image_sizes(folder: Path) -> None:
    model = load_sd(ModelSource(str(folder)), image_size=24)
    assert model.latent_shape == (4, 12, 12)
    prediction = model.denoise(normal(1, 4, 12, 12), TIMESTEPS[:1], model.encode_prompts(PROMPTS[:1]))
    assert prediction.shape == (1, 4, 12, 12)
    with pytest.raises(ValueError, match="image_size must be a multiple of 2 for this model, got 17"):
        load_sd(ModelSource(str(folder)), image_size=17)


def test_wrong_family_missing_and_pickled_parts_are_refused(
    model: StableDiffusionModel, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model")
    source = ModelSource(str(tmp_path / "model"))
    with pytest.raises(UnusableModelError, match="model: is of family sd, expected sdxl"):
        load_base(source, family="sdxl")
    weights_file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(
        UnusableModelError, match=r"diffusion_pytorch_model\.bin: pickled weights may run code"
    ):
        load_base(source)
    weights_file.with_suffix(".bin").unlink()
    with pytest.raises(MissingModelError, match="model: part 'unet' cannot be read here"):
        load_base(source)
