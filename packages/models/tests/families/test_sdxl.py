from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline
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
from medgen_models.families.sdxl import SdxlModel, load_sdxl
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import TextToImageModel
from medgen_models.sampling import JobNoise, sample_latents
from medgen_models.tiny.sdxl import tiny_sdxl, write_tiny_sdxl

PROMPTS = ["an endoscopic image of polyps", "a normal cecum", ""]
TIMESTEPS = torch.tensor([3, 500, 999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny", seed=3)


@pytest.fixture
def model(folder: Path) -> SdxlModel:
    return load_sdxl(ModelSource(str(folder)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_folder_gives_a_family_of_the_right_shapes(model: SdxlModel) -> None:
    family: TextToImageModel = model
    assert family.family == "sdxl"
    assert family.image_size == 16
    assert family.latent_shape == (4, 8, 8)
    assert family.diffusion == Diffusion("epsilon", "scaled-linear", beta_start=0.00085, beta_end=0.012)
    assert family.max_tokens == 77
    conditioning = family.encode_prompts(PROMPTS)
    assert conditioning.prompt_embeds.shape == (3, 77, 80)
    assert conditioning.pooled_prompt_embeds is not None
    assert conditioning.pooled_prompt_embeds.shape == (3, 24)
    assert conditioning.prompt_mask.sum(dim=1).tolist() == family.num_tokens(PROMPTS)
    moments = family.encode_images(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert moments.mean.shape == moments.std.shape == (3, 4, 8, 8)
    assert family.decode_latents(moments.mean).shape == (3, 3, 16, 16)
    assert family.denoise(moments.mean, TIMESTEPS, conditioning).shape == (3, 4, 8, 8)
    assert set(family.components()) == {"denoiser", "text_encoder", "text_encoder_2", "vae"}
    assert not any(p.requires_grad for part in family.components().values() for p in part.parameters())


@pytest.mark.parametrize("zeros", [True, False])
def test_embeddings_are_those_of_the_diffusers_pipeline(zeros: bool, tmp_path: Path) -> None:
    tiny_sdxl(seed=3, zero_empty_prompt=zeros).save_pretrained(tmp_path / "tiny", safe_serialization=True)
    model = load_sdxl(ModelSource(str(tmp_path / "tiny")))
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "tiny")
    with torch.no_grad():
        states, empty_states, pooled, empty_pooled = pipeline.encode_prompt(PROMPTS[:2])
        ours = model.encode_prompts(["", *PROMPTS[:2], ""])
    assert ours.pooled_prompt_embeds is not None
    torch.testing.assert_close(ours.prompt_embeds[1:3], states)
    torch.testing.assert_close(ours.pooled_prompt_embeds[1:3], pooled)
    torch.testing.assert_close(ours.prompt_embeds[[0, 3]], empty_states)
    torch.testing.assert_close(ours.pooled_prompt_embeds[[0, 3]], empty_pooled)
    assert bool(ours.prompt_embeds[0].any()) is not zeros
    assert model.to_pipeline().config.force_zeros_for_empty_prompt is zeros


def test_images_are_those_of_the_diffusers_pipeline(model: SdxlModel, folder: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    with torch.no_grad():
        latents = sample_latents(
            model,
            JobNoise([0, 1], model.latent_shape),
            model.encode_prompts(PROMPTS[:2]),
            model.encode_prompts(["", ""]),
            SamplingConfig(num_inference_steps=6, guidance_scale=5.0),
        )
        decoded = model.decode_latents(latents)
    settings = {
        "num_inference_steps": 6, "guidance_scale": 5.0, "latents": JobNoise([0, 1], model.latent_shape).draw(),
    }  # fmt: skip
    theirs = pipeline(PROMPTS[:2], output_type="latent", **settings).images
    torch.testing.assert_close(latents, theirs, rtol=1e-3, atol=1e-3)
    images = pipeline(PROMPTS[:2], output_type="pt", **settings).images
    torch.testing.assert_close(decoded.clamp(-1, 1) / 2 + 0.5, images, rtol=1e-3, atol=1e-3)
    assert (decoded.abs() < 1).float().mean() > 0.5  # clamping hides nothing
    assert (images[0] - images[1]).abs().max() > 1e-2


def test_pooled_state_and_image_size_reach_the_denoiser(model: SdxlModel, folder: Path) -> None:
    latents, conditioning = normal(3, 4, 8, 8), model.encode_prompts(PROMPTS)
    prediction = model.denoise(latents, TIMESTEPS, conditioning)
    pooled = conditioning.pooled_prompt_embeds
    assert pooled is not None
    other_pooled = conditioning.map(lambda each: each + 1 if each is pooled else each)
    assert not torch.allclose(model.denoise(latents, TIMESTEPS, other_pooled), prediction, atol=1e-3)
    size = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(3, -1)
    for time_ids, same in ((size, True), (2 * size, False)):
        direct = model.denoiser(
            latents,
            TIMESTEPS,
            encoder_hidden_states=conditioning.prompt_embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample
        assert torch.equal(direct, prediction) is same
    larger = load_sdxl(ModelSource(str(folder)), image_size=24)
    assert larger.latent_shape == (4, 12, 12)
    assert larger.denoise(normal(3, 4, 12, 12), TIMESTEPS, conditioning).shape == (3, 4, 12, 12)
    with pytest.raises(ValueError, match="image_size must be a multiple of 2 for this model, got 17"):
        load_sdxl(ModelSource(str(folder)), image_size=17)


def test_an_image_depends_on_its_prompt_and_seed_not_on_its_batch(model: SdxlModel) -> None:
    config = SamplingConfig(num_inference_steps=3, guidance_scale=5.0, batch_size=2)
    jobs = [SamplingJob(PROMPTS[0], 7), SamplingJob(PROMPTS[1], 7), SamplingJob(PROMPTS[0], 8)]
    images = list(sample_images(model, jobs, config))
    (alone,) = sample_images(model, jobs[:1], config)
    np.testing.assert_array_equal(images[0], alone)
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_embedding_of_a_prompt_does_not_depend_on_its_neighbours(model: SdxlModel) -> None:
    together = model.encode_prompts(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        for name, tensor in model.encode_prompts([prompt]).tensors().items():
            torch.testing.assert_close(tensor[0], together.tensors()[name][row], msg=name)


def test_saved_model_loads_to_the_same_output(model: SdxlModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.diffusion == model.diffusion
    assert loaded.prompt_encoders[1].tokenizer.pad_token == "!"
    latents = normal(3, 4, 8, 8)
    before = model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS))
    after = loaded.denoise(latents, TIMESTEPS, loaded.encode_prompts(PROMPTS))
    assert torch.equal(before, after)
    assert torch.equal(model.decode_latents(latents), loaded.decode_latents(latents))


def test_gradient_reaches_the_adapters_of_unet_and_both_text_encoders(model: SdxlModel) -> None:
    add_adapters(model.components(), AdapterConfig(rank=2, text_encoder=True), family="sdxl", seed=0)
    prediction = model.denoise(normal(3, 4, 8, 8), TIMESTEPS, model.encode_prompts(PROMPTS))
    torch.autograd.backward(prediction.square().sum())
    for part in ("denoiser", "text_encoder", "text_encoder_2"):
        # B is zero at the start, so the gradient of A is too.
        gradients = [p.grad for p in adapter_parameters(model.components()[part])[1::2]]
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        # The first encoder is read before its last layer, whose four adapters get nothing.
        assert reached == [True] * 4 + [False] * 4 if part == "text_encoder" else reached and all(reached), (
            part
        )


@pytest.mark.parametrize(("dtype", "vae_dtype"), [("bfloat16", "bfloat16"), ("float16", "float32")])
def test_half_weights_take_and_give_float32(
    folder: Path, model: SdxlModel, dtype: str, vae_dtype: str
) -> None:
    half = load_sdxl(ModelSource(str(folder), dtype=getattr(torch, dtype)))
    assert half.vae.dtype == getattr(torch, vae_dtype)
    add_adapters(half.components(), AdapterConfig(targets=("to_q", "conv_in")), family="sdxl", seed=0)
    latents = normal(3, 4, 8, 8)
    prediction = half.denoise(latents, TIMESTEPS, half.encode_prompts(PROMPTS))
    assert prediction.dtype == half.decode_latents(latents).dtype == torch.float32
    exact = model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS))
    assert 0 < (prediction - exact).norm() / exact.norm() < 0.05


def test_double_weights_compute_in_double(model: SdxlModel) -> None:
    for part in model.components().values():
        part.double()
    latents = normal(3, 4, 8, 8).double()
    assert model.denoise(latents, TIMESTEPS, model.encode_prompts(PROMPTS)).dtype == torch.float64
    assert model.decode_latents(latents).dtype == torch.float64


def test_wrong_family_missing_and_pickled_parts_are_refused(model: SdxlModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    source = ModelSource(str(tmp_path / "model"))
    with pytest.raises(UnusableModelError, match="model: is of family sdxl, expected sd"):
        load_base(source, family="sd")
    weights_file = tmp_path / "model" / "text_encoder_2" / "model.safetensors"
    weights_file.rename(weights_file.with_name("pytorch_model.bin"))
    with pytest.raises(UnusableModelError, match=r"pytorch_model\.bin: pickled weights may run code"):
        load_base(source)
    weights_file.with_name("pytorch_model.bin").unlink()
    with pytest.raises(MissingModelError, match="model: part 'text_encoder_2' cannot be read here"):
        load_base(source)
