import json
from pathlib import Path

import pytest
import torch
from diffusers import KandinskyV22PriorPipeline, UnCLIPScheduler
from medgen_models import MissingModelError, SamplingConfig, load_model, save_model
from medgen_models.adapters import AdapterConfig, adapter_parameters, add_adapters
from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError
from medgen_models.families.kandinsky22_prior import Kandinsky22PriorModel, load_kandinsky22_prior
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import TextToImageModel
from medgen_models.sampling import JobNoise, sample_latents
from medgen_models.text_encoder import PromptEncoder
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_decoder, write_tiny_kandinsky22_prior

PROMPTS = ["an image of polyps", "a normal cecum", ""]
TIMESTEPS = torch.tensor([3, 500, 999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_kandinsky22_prior(tmp_path_factory.mktemp("prior") / "tiny", seed=3)


@pytest.fixture
def model(folder: Path) -> Kandinsky22PriorModel:
    return load_kandinsky22_prior(ModelSource(str(folder)))


@pytest.fixture
def pipeline(folder: Path) -> KandinskyV22PriorPipeline:
    pipeline = KandinskyV22PriorPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
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


def test_folder_gives_a_family_of_the_right_shapes(model: Kandinsky22PriorModel) -> None:
    family: TextToImageModel = model
    assert family.family == "kandinsky22-prior"
    assert not family.decodes_to_pixels
    assert (family.image_size, family.latent_shape, family.max_tokens) == (32, (32, 1, 1), 24)
    conditioning = family.encode_prompts(PROMPTS)
    assert conditioning.pooled_prompt_embeds is not None
    assert conditioning.prompt_embeds.shape == (3, 24, 32)
    assert conditioning.pooled_prompt_embeds.shape == (3, 32)
    assert conditioning.prompt_mask.sum(dim=1).tolist() == family.num_tokens(PROMPTS)
    moments = family.encode_images(torch.rand(3, 3, 48, 48) * 2 - 1)
    assert moments.mean.shape == moments.std.shape == (3, 32, 1, 1)
    assert family.denoise(moments.mean, TIMESTEPS, conditioning).shape == (3, 32, 1, 1)
    assert set(family.components()) == {"denoiser", "text_encoder", "image_encoder"}
    assert not any(p.requires_grad for part in family.components().values() for p in part.parameters())


def test_latents_are_embeddings_normalised_by_the_statistics_of_the_prior(
    model: Kandinsky22PriorModel,
) -> None:
    pixel_values = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments = model.encode_images(pixel_values)
    embeddings = model.image_encoder.encode(pixel_values)
    expected = (embeddings - model.denoiser.clip_mean) / model.denoiser.clip_std
    torch.testing.assert_close(moments.mean[:, :, 0, 0], expected)
    assert not moments.std.any()
    assert not torch.allclose(expected, embeddings, atol=0.1)  # the statistics do something here
    torch.testing.assert_close(model.embeddings_of(moments.mean), embeddings)
    torch.testing.assert_close(
        model.embeddings_of(moments.mean), model.denoiser.post_process_latents(expected)
    )


def test_prompts_are_encoded_as_by_the_diffusers_pipeline(
    model: Kandinsky22PriorModel, pipeline: KandinskyV22PriorPipeline
) -> None:
    prompts = ["an image of polyps", "a normal cecum that is longer than the prior reads"]
    pooled, states, mask = pipeline._encode_prompt(prompts, torch.device("cpu"), 1, True)
    ours = model.encode_prompts(["", "", *prompts])
    assert ours.pooled_prompt_embeds is not None
    torch.testing.assert_close(ours.pooled_prompt_embeds, pooled)
    torch.testing.assert_close(ours.prompt_embeds, states)
    assert torch.equal(ours.prompt_mask, mask)


def test_embeddings_are_those_of_the_diffusers_pipeline(
    model: Kandinsky22PriorModel, pipeline: KandinskyV22PriorPipeline
) -> None:
    """With eta = 1, DDIM is the ancestral sampler of unCLIP: same noise, same embeddings, noise for noise."""
    prompts, seeds = ["an image of polyps", "a normal cecum"], [4, 5]
    config = SamplingConfig(solver="ddim", eta=1.0, num_inference_steps=4, guidance_scale=4.0)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    # In float32 the scheduler's 1 - a / a' loses the share of the old latents at the first step: 2e-4 for 1e-8.
    pipeline.scheduler.alphas_cumprod = model.diffusion.alphas_cumprod
    expected = pipeline(prompts, generator=generators, num_inference_steps=4, guidance_scale=4.0)
    latents = drawn(model, prompts, seeds, config)
    assert latents.abs().max() < 5  # where the ordinary scheduler would clamp
    torch.testing.assert_close(model.embeddings_of(latents), expected.image_embeds, rtol=1e-4, atol=1e-4)
    unguided = drawn(model, prompts, seeds, config.model_copy(update={"guidance_scale": 1.0}))
    assert not torch.allclose(unguided, latents, atol=1e-2)


def test_padding_takes_no_part(model: Kandinsky22PriorModel) -> None:
    latents, conditioning = normal(3, 32, 1, 1), model.encode_prompts(PROMPTS)
    prediction = model.denoise(latents, TIMESTEPS, conditioning)
    padding = ~conditioning.prompt_mask.unsqueeze(-1)
    states = conditioning.prompt_embeds + 5 * padding
    blurred = type(conditioning)(states, conditioning.prompt_mask, conditioning.pooled_prompt_embeds)
    torch.testing.assert_close(model.denoise(latents, TIMESTEPS, blurred), prediction)


def test_neighbours_change_neither_prompts_nor_embeddings(model: Kandinsky22PriorModel) -> None:
    together, alone = model.encode_prompts(PROMPTS), model.encode_prompts(PROMPTS[1:2])
    for name, tensor in alone.tensors().items():
        torch.testing.assert_close(tensor, together.tensors()[name][1:2])
    config = SamplingConfig(num_inference_steps=4, guidance_scale=4.0)
    torch.testing.assert_close(
        drawn(model, PROMPTS[1:2], [7], config), drawn(model, PROMPTS, [6, 7, 8], config)[1:2]
    )


def test_noise_schedule_is_that_of_unclip_or_of_the_authors(
    model: Kandinsky22PriorModel, folder: Path
) -> None:
    scheduler = UnCLIPScheduler(prediction_type="sample")
    reference = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(model.diffusion.alphas_cumprod[:990], reference[:990], rtol=1e-4, atol=0)
    authors = load_kandinsky22_prior(ModelSource(str(folder)), prior_noise_schedule="authors")
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    torch.testing.assert_close(authors.diffusion.alphas_cumprod, (1 - betas).cumprod(0))
    assert authors.diffusion.prediction_type == model.diffusion.prediction_type == "sample"
    back = authors.with_noise_schedule("unclip")
    assert back.diffusion == model.diffusion
    assert back.denoiser is authors.denoiser
    assert type(authors.to_pipeline().scheduler).__name__ == "UnCLIPScheduler"
    latents, noise = normal(3, 32, 1, 1), normal(3, 32, 1, 1, seed=1)
    assert torch.equal(authors.diffusion.target(latents, noise, TIMESTEPS), latents)


def test_a_scheduler_config_without_a_schedule_is_the_cosine_one(
    model: Kandinsky22PriorModel, folder: Path, tmp_path: Path
) -> None:
    """The published configs were written before the scheduler had that field."""
    save_model(model, tmp_path / "prior")
    file = tmp_path / "prior" / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    assert config.pop("beta_schedule") == "squaredcos_cap_v2"
    file.write_text(json.dumps(config))
    assert load_kandinsky22_prior(ModelSource(str(tmp_path / "prior"))).diffusion == model.diffusion


def test_saved_folder_gives_back_the_same_predictions(model: Kandinsky22PriorModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "prior")
    loaded = load_model(tmp_path / "prior")
    assert loaded.diffusion == model.diffusion
    ours, theirs = model.encode_prompts(PROMPTS), loaded.encode_prompts(PROMPTS)
    for name, tensor in ours.tensors().items():
        assert torch.equal(tensor, theirs.tensors()[name]), name
    latents = model.encode_images(torch.ones(3, 3, 32, 32)).mean
    assert torch.equal(loaded.encode_images(torch.ones(3, 3, 32, 32)).mean, latents)
    assert torch.equal(loaded.denoise(latents, TIMESTEPS, theirs), model.denoise(latents, TIMESTEPS, ours))
    assert {file.suffix for file in (tmp_path / "prior").rglob("*") if file.is_file()} == {
        ".json",
        ".safetensors",
    }


def test_gradients_reach_the_adapters_of_denoiser_and_text_encoder(model: Kandinsky22PriorModel) -> None:
    sizes = add_adapters(
        model.components(), AdapterConfig(rank=2, text_encoder=True), family="kandinsky22-prior", seed=0
    )
    assert sizes["denoiser"].num_modules == 2 * 4
    prediction = model.denoise(normal(3, 32, 1, 1), TIMESTEPS, model.encode_prompts(PROMPTS))
    torch.autograd.backward(prediction.square().sum())
    for part in ("denoiser", "text_encoder"):
        for name, parameter in model.components()[part].named_parameters():
            if "lora_B" in name:
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name
    assert not any(p.grad is not None for p in model.image_encoder.network.parameters())


def test_half_precision_weights_predict_in_the_dtype_of_the_latents(folder: Path) -> None:
    half = load_kandinsky22_prior(ModelSource(str(folder), dtype=torch.bfloat16))
    add_adapters(half.components(), AdapterConfig(rank=2), family="kandinsky22-prior", seed=0)
    assert {p.dtype for p in adapter_parameters(half.denoiser)} == {torch.float32}
    conditioning = half.encode_prompts(PROMPTS)
    assert conditioning.prompt_embeds.dtype == torch.float32
    moments = half.encode_images(torch.zeros(3, 3, 32, 32))
    assert moments.mean.dtype == torch.float32
    prediction = half.denoise(moments.mean, TIMESTEPS, conditioning)
    assert prediction.dtype == torch.float32
    whole = load_kandinsky22_prior(ModelSource(str(folder)))
    expected = whole.denoise(moments.mean, TIMESTEPS, conditioning)
    assert (prediction - expected).abs().max() < 0.05 * expected.abs().max()


def test_wrong_folders_and_parts_are_refused(
    model: Kandinsky22PriorModel, folder: Path, tmp_path: Path
) -> None:
    decoder = write_tiny_kandinsky22_decoder(tmp_path / "decoder")
    with pytest.raises(
        UnusableModelError, match=r"is 'KandinskyV22Pipeline', expected 'KandinskyV22PriorPipeline'"
    ):
        load_kandinsky22_prior(ModelSource(str(decoder)))
    with pytest.raises(UnusableModelError, match=r"is of family kandinsky22-prior, expected sd"):
        load_base(ModelSource(str(folder)), family="sd")
    longer = PromptEncoder(model.prompt_encoder.text_model, model.prompt_encoder.tokenizer, 77)
    with pytest.raises(ValueError, match=r"max_tokens must be 24, which the prior was made for, got 77"):
        Kandinsky22PriorModel(model.denoiser, longer, model.image_encoder, model.diffusion)
    with pytest.raises(ValueError, match=r"expected prediction_type sample, got epsilon"):
        Kandinsky22PriorModel(model.denoiser, model.prompt_encoder, model.image_encoder, Diffusion())
    with pytest.raises(
        UnusableModelError, match="are image embeddings; give the prior to a kandinsky22-decoder"
    ):
        model.decode_latents(torch.zeros(1, 32, 1, 1))


def test_missing_and_pickled_parts_are_refused(model: Kandinsky22PriorModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "prior")
    weights = tmp_path / "prior" / "prior" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        UnusableModelError, match=r"diffusion_pytorch_model\.bin: pickled weights may run code"
    ):
        load_model(tmp_path / "prior")
    weights.with_suffix(".bin").unlink()
    with pytest.raises(MissingModelError, match="part 'prior' cannot be read here"):
        load_model(tmp_path / "prior")
