from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
)
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
from medgen_models.families.kandinsky22_decoder import Kandinsky22DecoderModel, load_kandinsky22_decoder
from medgen_models.families.kandinsky22_prior import load_kandinsky22_prior
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import Cascade, Conditioning, ImageConditioned, TextToImageModel
from medgen_models.sampling import JobNoise, sample_latents, to_uint8
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_decoder, write_tiny_kandinsky22_prior

TIMESTEPS = torch.tensor([3, 500, 999])
JOBS = [SamplingJob("polyps", 1), SamplingJob("a normal cecum", 2), SamplingJob("polyps", 3)]
CONFIG = SamplingConfig(num_inference_steps=4, prior_num_inference_steps=4, guidance_scale=4.0, batch_size=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Decoder and prior."""
    parent = tmp_path_factory.mktemp("kandinsky22")
    return (
        write_tiny_kandinsky22_decoder(parent / "decoder", seed=3),
        write_tiny_kandinsky22_prior(parent / "prior", seed=4),
    )


@pytest.fixture
def model(folders: tuple[Path, Path]) -> Kandinsky22DecoderModel:
    decoder, prior = folders
    return load_kandinsky22_decoder(ModelSource(str(decoder)), ModelSource(str(prior)))


@pytest.fixture
def alone(folders: tuple[Path, Path]) -> Kandinsky22DecoderModel:
    return load_kandinsky22_decoder(ModelSource(str(folders[0])))


@pytest.fixture
def pipeline(folders: tuple[Path, Path]) -> KandinskyV22Pipeline:
    pipeline = KandinskyV22Pipeline.from_pretrained(folders[0])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def prior_pipeline(folders: tuple[Path, Path]) -> KandinskyV22PriorPipeline:
    pipeline = KandinskyV22PriorPipeline.from_pretrained(folders[1])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw(model: TextToImageModel, jobs: list[SamplingJob], config: SamplingConfig = CONFIG) -> np.ndarray:
    return np.stack(list(sample_images(model, jobs, config)))


def test_folders_give_a_family_of_the_right_shapes(model: Kandinsky22DecoderModel) -> None:
    family: TextToImageModel = model
    assert isinstance(family, Cascade)
    assert isinstance(family, ImageConditioned)
    assert (family.family, family.prior.family) == ("kandinsky22-decoder", "kandinsky22-prior")
    assert (family.image_size, family.latent_shape, family.max_tokens) == (16, (4, 8, 8), 24)
    assert family.diffusion == Diffusion("epsilon", "linear", beta_start=0.00085, beta_end=0.012)
    moments = family.encode_images(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert moments.mean.shape == moments.std.shape == (3, 4, 8, 8)
    assert family.decode_latents(moments.mean).shape == (3, 3, 16, 16)
    assert family.encode_image_conditioning(torch.zeros(3, 3, 16, 16)).prompt_embeds.shape == (3, 1, 32)
    assert family.num_tokens(["polyps"]) == family.prior.num_tokens(["polyps"])
    parts = family.components()
    assert set(parts) == {"denoiser", "vae", "image_encoder", "prior", "prior_text_encoder"}
    assert not any(p.requires_grad for part in parts.values() for p in part.parameters())


def test_latents_are_unscaled_and_not_quantised(model: Kandinsky22DecoderModel) -> None:
    pixel_values = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments = model.encode_images(pixel_values)
    assert torch.equal(moments.mean, model.vae.encode(pixel_values).latents)
    assert torch.equal(moments.sample(normal(2, 4, 8, 8)), moments.mean)
    decoded = model.decode_latents(moments.mean)
    assert torch.equal(decoded, model.vae.decode(moments.mean, force_not_quantize=True).sample)
    assert not torch.allclose(decoded, model.vae.decode(moments.mean).sample, atol=1e-2)


def test_variance_channels_are_dropped(model: Kandinsky22DecoderModel) -> None:
    latents, conditioning = normal(3, 4, 8, 8), model.encode_prompts(["polyps", "a normal cecum", ""])
    whole = model.denoiser(
        latents,
        TIMESTEPS,
        encoder_hidden_states=None,
        added_cond_kwargs={"image_embeds": conditioning.prompt_embeds[:, 0]},
    ).sample
    assert whole.shape == (3, 8, 8, 8)
    assert torch.equal(model.denoise(latents, TIMESTEPS, conditioning), whole[:, :4])


def test_latents_are_those_of_the_diffusers_pipeline(
    model: Kandinsky22DecoderModel, pipeline: KandinskyV22Pipeline
) -> None:
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, variance_type=None, timestep_spacing="linspace"
    )
    conditioning = model.encode_image_conditioning(torch.rand(2, 3, 16, 16) * 2 - 1)
    unconditional = model.unconditional(2)
    noise = JobNoise([5, 6], model.latent_shape)
    expected = pipeline(
        conditioning.prompt_embeds[:, 0],
        unconditional.prompt_embeds[:, 0],
        height=16,
        width=16,
        latents=JobNoise([5, 6], model.latent_shape).draw(),
        num_inference_steps=6,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    config = SamplingConfig(num_inference_steps=6, guidance_scale=4.0)
    ours = sample_latents(model, noise, conditioning, unconditional, config)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_prompt_and_seed_become_the_image_of_both_diffusers_pipelines(
    model: Kandinsky22DecoderModel,
    pipeline: KandinskyV22Pipeline,
    prior_pipeline: KandinskyV22PriorPipeline,
) -> None:
    """One generator an image, through prior and decoder; with eta = 1, DDIM is the ancestral sampler of both."""
    pipeline.scheduler = DDPMScheduler.from_config(
        pipeline.scheduler.config, variance_type="fixed_small", timestep_spacing="linspace"
    )
    prior_pipeline.scheduler.alphas_cumprod = model.prior.diffusion.alphas_cumprod  # type: ignore[union-attr]
    generators = [torch.Generator().manual_seed(job.seed) for job in JOBS]
    embeds = prior_pipeline(
        [job.prompt for job in JOBS], generator=generators, num_inference_steps=4, guidance_scale=4.0
    )
    torch.testing.assert_close(
        embeds.negative_image_embeds, model.unconditional(3).prompt_embeds[:, 0], rtol=1e-4, atol=1e-5
    )
    images = pipeline(
        embeds.image_embeds,
        embeds.negative_image_embeds,
        height=16,
        width=16,
        generator=generators,
        num_inference_steps=4,
        guidance_scale=4.0,
        output_type="pt",
    ).images
    # `pt` of this pipeline is not brought to [0, 1], as it is elsewhere: it is what `decode_latents` gives.
    assert images.min() < -0.5
    ours = draw(model, JOBS, CONFIG.model_copy(update={"solver": "ddim", "eta": 1.0}))
    assert np.abs(ours.astype(int) - to_uint8(images)).max() <= 1
    assert ours[0].std() > 20
    assert np.mean((ours > 0) & (ours < 255)) > 0.2  # not all of it is clamped


def test_an_image_depends_on_its_prompt_and_seed_not_on_its_batch(model: Kandinsky22DecoderModel) -> None:
    whole = draw(model, JOBS)
    np.testing.assert_array_equal(draw(model, JOBS[::-1])[::-1], whole)
    np.testing.assert_array_equal(draw(model, JOBS[1:2]), whole[1:2])
    for other in (SamplingJob("polyps", 2), SamplingJob("ulcers", 1)):
        assert (draw(model, [other]) != whole[:1]).any()
    settings = {"prior_guidance_scale": 1.0}, {"guidance_scale": 1.0}, {"prior_num_inference_steps": 5}
    for update in settings:
        assert (draw(model, JOBS[:1], CONFIG.model_copy(update=update)) != whole[:1]).any()


def test_a_prompt_has_one_embedding_whatever_stands_beside_it(model: Kandinsky22DecoderModel) -> None:
    together = model.encode_prompts(["polyps", "", "a normal cecum"])
    for row, prompt in enumerate(["polyps", "", "a normal cecum"]):
        assert torch.equal(model.encode_prompts([prompt]).prompt_embeds[0], together.prompt_embeds[row])
    assert torch.equal(together.prompt_embeds[1], model.unconditional(1).prompt_embeds[0])
    assert not torch.allclose(together.prompt_embeds[0], together.prompt_embeds[2], atol=1e-3)
    assert together.prompt_mask.all()
    two = model.unconditional(2).prompt_embeds
    assert torch.equal(two[0], two[1])


def test_condition_on_undoes_the_normalisation_of_the_prior(model: Kandinsky22DecoderModel) -> None:
    pixel_values = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = model.prior.encode_images(pixel_values).mean
    torch.testing.assert_close(
        model.condition_on(latents).prompt_embeds, model.encode_image_conditioning(pixel_values).prompt_embeds
    )


def test_prior_samples_by_its_own_schedule_whatever_it_was_trained_with(
    model: Kandinsky22DecoderModel, folders: tuple[Path, Path]
) -> None:
    authors = load_kandinsky22_prior(ModelSource(str(folders[1])), prior_noise_schedule="authors")
    cascade = Kandinsky22DecoderModel(model.denoiser, model.vae, model.diffusion, prior=authors)
    assert cascade.prior.diffusion == model.prior.diffusion
    assert authors.diffusion != cascade.prior.diffusion
    assert cascade.prior.denoiser is authors.denoiser  # what is trained there is drawn from here


def test_without_a_prior_it_draws_from_conditions_and_says_what_it_lacks(
    alone: Kandinsky22DecoderModel, model: Kandinsky22DecoderModel
) -> None:
    family: TextToImageModel = alone
    assert not isinstance(family, Cascade)
    assert set(alone.components()) == {"denoiser", "vae"}
    assert (alone.max_tokens, alone.num_tokens(["polyps"])) == (None, [0])
    conditioning = model.encode_prompts(["polyps"])
    latents, timesteps = normal(1, 4, 8, 8), torch.tensor([500])
    assert torch.equal(
        alone.denoise(latents, timesteps, conditioning), model.denoise(latents, timesteps, conditioning)
    )
    advice = (
        r"without its prior and cannot .*name the prior too, such as kandinsky-community/kandinsky-2-2-prior"
    )
    for call in (
        lambda: alone.encode_prompts(["polyps"]),
        lambda: alone.encode_prompts([""]),
        lambda: alone.encode_image_conditioning(torch.zeros(1, 3, 16, 16)),
        lambda: draw(alone, JOBS),
    ):
        with pytest.raises(UnusableModelError, match=advice):
            call()


@pytest.mark.parametrize("with_prior", [True, False])
def test_saved_folder_gives_back_the_same_images(
    model: Kandinsky22DecoderModel, folders: tuple[Path, Path], tmp_path: Path, *, with_prior: bool
) -> None:
    save_model(model, tmp_path / "decoder")
    if with_prior:
        options = {"prior_source": ModelSource(str(folders[1]))}
        loaded = load_base(ModelSource(str(tmp_path / "decoder")), options=options)
        np.testing.assert_array_equal(draw(loaded, JOBS[:1]), draw(model, JOBS[:1]))
    else:
        loaded = load_model(tmp_path / "decoder")
    assert loaded.diffusion == model.diffusion
    latents, conditioning = (
        normal(3, 4, 8, 8),
        Conditioning(normal(3, 1, 32), torch.ones(3, 1, dtype=torch.bool)),
    )
    assert torch.equal(
        loaded.denoise(latents, TIMESTEPS, conditioning), model.denoise(latents, TIMESTEPS, conditioning)
    )
    assert torch.equal(loaded.decode_latents(latents), model.decode_latents(latents))
    # What is saved is whole: the ordinary pipeline draws from it.
    pipeline = KandinskyV22Pipeline.from_pretrained(tmp_path / "decoder")
    pipeline.set_progress_bar_config(disable=True)
    embeds = conditioning.prompt_embeds[:, 0]
    images = pipeline(embeds, -embeds, height=16, width=16, num_inference_steps=2, output_type="np").images
    assert np.isfinite(images).all()


def test_gradients_reach_the_adapter_of_the_denoiser_alone(model: Kandinsky22DecoderModel) -> None:
    sizes = add_adapters(model.components(), AdapterConfig(rank=2), family="kandinsky22-decoder", seed=0)
    assert set(sizes) == {"denoiser"}
    conditioning = model.encode_image_conditioning(torch.zeros(3, 3, 16, 16))
    torch.autograd.backward(model.denoise(normal(3, 4, 8, 8), TIMESTEPS, conditioning).square().sum())
    learning = [(name, p) for name, p in model.denoiser.named_parameters() if "lora_B" in name]
    assert len(learning) == sizes["denoiser"].num_modules
    for name, parameter in learning:
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    for part in ("vae", "image_encoder", "prior", "prior_text_encoder"):
        assert not any(p.requires_grad for p in model.components()[part].parameters())


def test_gradients_pass_the_decoding(model: Kandinsky22DecoderModel) -> None:
    latents = normal(1, 4, 8, 8).requires_grad_()
    torch.autograd.backward(model.decode_latents(latents).square().sum())
    assert latents.grad is not None
    assert (latents.grad != 0).all()


def test_half_precision_leaves_the_autoencoder_whole(folders: tuple[Path, Path]) -> None:
    half, whole = (
        load_kandinsky22_decoder(
            ModelSource(str(folders[0]), dtype=dtype), ModelSource(str(folders[1]), dtype=dtype)
        )
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert (half.denoiser.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)
    add_adapters(half.components(), AdapterConfig(rank=2), family="kandinsky22-decoder", seed=0)
    conditioning = whole.encode_image_conditioning(torch.zeros(3, 3, 16, 16))
    latents = whole.encode_images(torch.zeros(3, 3, 16, 16)).mean
    prediction = half.denoise(latents, TIMESTEPS, conditioning)
    expected = whole.denoise(latents, TIMESTEPS, conditioning)
    assert prediction.dtype == torch.float32
    assert (prediction - expected).abs().max() < 0.05 * expected.abs().max()
    assert draw(half, JOBS[:1]).shape == (1, 16, 16, 3)


def test_image_size_may_be_another_than_the_config_has(model: Kandinsky22DecoderModel) -> None:
    larger = Kandinsky22DecoderModel(model.denoiser, model.vae, model.diffusion, image_size=24)
    assert (larger.image_size, larger.latent_shape) == (24, (4, 12, 12))
    conditioning = model.encode_prompts(["polyps"])
    prediction = larger.denoise(normal(1, 4, 12, 12), torch.tensor([500]), conditioning)
    assert larger.decode_latents(prediction).shape == (1, 3, 24, 24)
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 4 for this model, got 18"):
        Kandinsky22DecoderModel(model.denoiser, model.vae, model.diffusion, image_size=18)


def test_parts_and_folders_that_do_not_belong_are_refused(
    model: Kandinsky22DecoderModel, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    decoder, prior = (ModelSource(str(folder)) for folder in folders)
    with pytest.raises(
        UnusableModelError, match="'KandinskyV22Pipeline', expected 'KandinskyV22PriorPipeline'"
    ):
        load_kandinsky22_decoder(decoder, decoder)
    with pytest.raises(MissingModelError, match="part 'unet' cannot be read here"):
        load_kandinsky22_decoder(prior)
    with pytest.raises(
        UnusableModelError, match="is of family kandinsky22-decoder, expected kandinsky22-prior"
    ):
        load_base(decoder, family="kandinsky22-prior")
    model.denoiser.register_to_config(encoder_hid_dim=1280)
    with pytest.raises(UnusableModelError, match="wants embeddings of width 1280, the prior gives 32"):
        Kandinsky22DecoderModel(
            model.denoiser, model.vae, model.diffusion, prior=load_kandinsky22_prior(prior)
        )
    model.denoiser.register_to_config(encoder_hid_dim=32)
    save_model(model, tmp_path / "decoder")
    weights = tmp_path / "decoder" / "movq" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        UnusableModelError, match=r"movq/diffusion_pytorch_model\.bin: pickled weights may run code"
    ):
        load_model(tmp_path / "decoder")
