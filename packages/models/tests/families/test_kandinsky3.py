from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, Kandinsky3Pipeline
from medgen_models import (
    MissingModelError,
    SamplingConfig,
    SamplingJob,
    load_model,
    sample_images,
    save_model,
)
from medgen_models.adapters import AdapterConfig, add_adapters
from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError
from medgen_models.families.kandinsky3 import Kandinsky3Model, load_kandinsky3
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import TextToImageModel
from medgen_models.sampling import JobNoise, sample_latents, to_uint8
from medgen_models.tiny.kandinsky3 import write_tiny_kandinsky3

PROMPTS = ["an endoscopic image of polyps", "a normal cecum", ""]
TIMESTEPS = torch.tensor([3, 500, 999])
# With 128 tokens or more there is no padding that the pipeline could cut off.
LONG_PROMPT = "an endoscopic image of polyps " * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_kandinsky3(tmp_path_factory.mktemp("kandinsky3") / "tiny", seed=3)


@pytest.fixture
def model(folder: Path) -> Kandinsky3Model:
    return load_kandinsky3(ModelSource(str(folder)))


@pytest.fixture
def pipeline(folder: Path) -> Kandinsky3Pipeline:
    pipeline = Kandinsky3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, variance_type=None, timestep_spacing="linspace", lambda_min_clipped=-5.1
    )
    return pipeline


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(
    model: TextToImageModel, prompts: list[str], seeds: list[int], config: SamplingConfig
) -> torch.Tensor:
    with torch.no_grad():
        unconditional = model.encode_prompts([""] * len(prompts))
        noise = JobNoise(seeds, model.latent_shape)
        return sample_latents(model, noise, model.encode_prompts(prompts), unconditional, config)


def test_folder_gives_a_family_of_the_right_shapes(model: Kandinsky3Model) -> None:
    family: TextToImageModel = model
    assert family.family == "kandinsky3"
    assert (family.image_size, family.latent_shape, family.max_tokens) == (16, (4, 8, 8), 128)
    assert (family.diffusion.prediction_type, family.diffusion.beta_schedule) == ("epsilon", "cosine")  # type: ignore[union-attr]
    assert family.encode_prompts(PROMPTS).prompt_embeds.shape == (3, 128, 32)
    moments = family.encode_images(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert moments.mean.shape == moments.std.shape == (3, 4, 8, 8)
    assert not moments.std.any()
    assert family.decode_latents(moments.mean).shape == (3, 3, 16, 16)
    assert family.denoise(moments.mean, TIMESTEPS, family.encode_prompts(PROMPTS)).shape == (3, 4, 8, 8)
    assert set(family.components()) == {"denoiser", "text_encoder", "vae"}
    assert not any(p.requires_grad for part in family.components().values() for p in part.parameters())


def test_padding_and_the_empty_prompt_are_zeros(model: Kandinsky3Model, pipeline: Kandinsky3Pipeline) -> None:
    conditioning = model.encode_prompts(PROMPTS)
    lengths = conditioning.prompt_mask.sum(dim=1).tolist()
    assert lengths == [*model.num_tokens(PROMPTS[:2]), 0]
    assert not conditioning.prompt_embeds[~conditioning.prompt_mask].any()
    assert conditioning.prompt_embeds[conditioning.prompt_mask].abs().sum(dim=1).min() > 0
    states, negative_states, mask, negative_mask = pipeline.encode_prompt(PROMPTS[:2])
    torch.testing.assert_close(conditioning.prompt_embeds[:2], states)
    assert torch.equal(conditioning.prompt_mask[:2], mask.bool())
    assert torch.equal(conditioning.prompt_embeds[2], negative_states[0])
    assert torch.equal(conditioning.prompt_mask[2], negative_mask[0].bool())


def test_image_of_a_long_prompt_is_that_of_the_diffusers_pipeline(
    model: Kandinsky3Model, pipeline: Kandinsky3Pipeline
) -> None:
    assert model.num_tokens([LONG_PROMPT])[0] > 128
    expected = pipeline(
        LONG_PROMPT,
        height=64,  # the pipeline divides by 8 whatever the autoencoder does
        width=64,
        latents=JobNoise([5], model.latent_shape).draw(),
        num_inference_steps=6,
        guidance_scale=3.0,  # which means 4
        output_type="latent",
    ).images
    ours = drawn(model, [LONG_PROMPT], [5], SamplingConfig(num_inference_steps=6, guidance_scale=4.0))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_images_of_uncut_prompts_are_those_of_the_diffusers_pipeline(
    model: Kandinsky3Model, pipeline: Kandinsky3Pipeline
) -> None:
    states, negative_states, mask, negative_mask = pipeline.encode_prompt(PROMPTS[:2])
    expected = pipeline(
        prompt_embeds=states,
        attention_mask=mask,
        negative_prompt_embeds=negative_states,
        negative_attention_mask=negative_mask,
        height=64,
        width=64,
        latents=JobNoise([5, 6], model.latent_shape).draw(),
        num_inference_steps=6,
        guidance_scale=3.0,
        output_type="pt",
    ).images
    assert expected.min() < -0.5  # `pt` of this pipeline is not brought to [0, 1]
    jobs = [SamplingJob(prompt, seed) for prompt, seed in zip(PROMPTS[:2], (5, 6), strict=True)]
    config = SamplingConfig(num_inference_steps=6, guidance_scale=4.0, batch_size=2)
    ours = np.stack(list(sample_images(model, jobs, config)))
    assert np.abs(ours.astype(int) - to_uint8(expected)).max() <= 1
    assert ours[0].std() > 20


def test_neighbours_change_neither_prompts_nor_images(model: Kandinsky3Model) -> None:
    together, alone = model.encode_prompts(PROMPTS), model.encode_prompts(PROMPTS[1:2])
    torch.testing.assert_close(alone.prompt_embeds, together.prompt_embeds[1:2])
    config = SamplingConfig(num_inference_steps=3, batch_size=2)
    jobs = [SamplingJob(LONG_PROMPT, 1), SamplingJob("polyps", 1), SamplingJob("polyps", 2)]
    whole = np.stack(list(sample_images(model, jobs, config)))
    for row, job in enumerate(jobs):
        (image,) = sample_images(model, [job], config)
        np.testing.assert_array_equal(image, whole[row])
    assert len({image.tobytes() for image in whole}) == 3


def test_saved_folder_gives_back_the_same_images_and_their_size(
    model: Kandinsky3Model, tmp_path: Path
) -> None:
    larger = Kandinsky3Model(
        model.denoiser, model.vae, model.prompt_encoder, Diffusion("v", "cosine"), image_size=24
    )
    save_model(larger, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert (loaded.image_size, loaded.latent_shape) == (24, (4, 12, 12))
    assert (loaded.diffusion.prediction_type, loaded.diffusion.beta_schedule) == ("v", "cosine")
    config = SamplingConfig(num_inference_steps=3)
    (ours,) = sample_images(larger, [SamplingJob("polyps", 1)], config)
    (theirs,) = sample_images(loaded, [SamplingJob("polyps", 1)], config)
    np.testing.assert_array_equal(ours, theirs)
    pipeline = Kandinsky3Pipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("polyps", height=64, width=64, num_inference_steps=2, output_type="np").images
    assert np.isfinite(images).all()


def test_size_of_the_published_weights_is_assumed_where_nothing_is_said(model: Kandinsky3Model) -> None:
    published = Kandinsky3Model(model.denoiser, model.vae, model.prompt_encoder, model.diffusion)
    assert (published.image_size, published.latent_shape) == (256, (4, 128, 128))  # 1024 at a factor of 8
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 4 for this model, got 18"):
        Kandinsky3Model(model.denoiser, model.vae, model.prompt_encoder, model.diffusion, image_size=18)


def test_prompts_may_be_shorter_and_lower_cased(folder: Path) -> None:
    short = load_kandinsky3(ModelSource(str(folder)), max_tokens=64, lower_case=True)
    conditioning = short.encode_prompts(["Polyps", "polyps"])
    assert conditioning.prompt_embeds.shape == (2, 64, 32)
    assert torch.equal(conditioning.prompt_embeds[0], conditioning.prompt_embeds[1])


def test_gradients_reach_the_adapters_of_denoiser_and_text_encoder(model: Kandinsky3Model) -> None:
    config = AdapterConfig(rank=2, text_encoder=True)
    add_adapters(model.components(), config, family="kandinsky3", seed=0)
    prediction = model.denoise(normal(3, 4, 8, 8), TIMESTEPS, model.encode_prompts(PROMPTS))
    torch.autograd.backward(prediction.square().sum())
    for part in ("denoiser", "text_encoder"):
        learning = [(n, p) for n, p in model.components()[part].named_parameters() if "lora_B" in n]
        assert learning
        for name, parameter in learning:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_half_precision_leaves_the_autoencoder_whole(folder: Path) -> None:
    half = load_kandinsky3(ModelSource(str(folder), dtype=torch.bfloat16))
    assert (half.denoiser.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)
    add_adapters(half.components(), AdapterConfig(rank=2), family="kandinsky3", seed=0)
    whole = load_kandinsky3(ModelSource(str(folder)))
    conditioning, latents = whole.encode_prompts(PROMPTS), normal(3, 4, 8, 8)
    prediction, expected = (each.denoise(latents, TIMESTEPS, conditioning) for each in (half, whole))
    assert prediction.dtype == torch.float32
    assert (prediction - expected).square().mean() < 0.1**2 * expected.square().mean()  # 3 to 9 %


def test_wrong_missing_and_pickled_parts_are_refused(
    model: Kandinsky3Model, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnusableModelError, match="is of family kandinsky3, expected pixart"):
        load_base(ModelSource(str(folder)), family="pixart")
    save_model(model, tmp_path / "model")
    weights = tmp_path / "model" / "text_encoder" / "model.safetensors"
    weights.rename(tmp_path / "model" / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(UnusableModelError, match=r"pytorch_model\.bin: pickled weights may run code"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "text_encoder" / "pytorch_model.bin").unlink()
    with pytest.raises(MissingModelError, match="part 'text_encoder' cannot be read here"):
        load_model(tmp_path / "model")
