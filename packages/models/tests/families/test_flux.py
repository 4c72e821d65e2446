import math
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from medgen_models.adapters.config import PartAdapter
from medgen_models.adapters.wiring import adapter_parameters, add_adapter
from medgen_models.diffusion import FlowMatching
from medgen_models.errors import MissingModelError, UnusableModelError
from medgen_models.families.flux import (
    FluxModel,
    config_to_flow,
    load_flux,
    pack_latents,
    unpack_latents,
)
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import Conditioning, TextToImageModel
from medgen_models.sampling import JobNoise, SamplingConfig, guided_prediction, sample_latents
from medgen_models.solver import euler_steps
from medgen_models.tiny.flux import write_tiny_flux
from torch import Tensor

DEV_CONFIG = {"shift": 3.0, "use_dynamic_shifting": True}  # the rest is the default


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_flux(tmp_path_factory.mktemp("flux") / "model", seed=3)


@pytest.fixture(scope="module")
def flux(folder: Path) -> FluxModel:
    return load_flux(ModelSource(str(folder)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def draw(model: TextToImageModel, prompts: list[str], guidance_scale: float = 3.5) -> Tensor:
    config = SamplingConfig(solver="euler", num_inference_steps=4, guidance_scale=guidance_scale)
    conditioning, empty = model.encode_prompts(prompts), model.encode_prompts([""] * len(prompts))
    noise = JobNoise(list(range(len(prompts))), model.latent_shape)
    return sample_latents(model, noise, conditioning, empty, config)


def test_folder_is_recognised_and_its_parts_have_names(folder: Path) -> None:
    model = load_base(ModelSource(str(folder)))
    assert isinstance(model, FluxModel)
    assert set(model.components()) == {"denoiser", "text_encoder", "text_encoder_2", "vae"}
    assert not any(p.requires_grad for part in model.components().values() for p in part.parameters())


def test_prompts_become_states_of_t5_and_the_pooled_state_of_clip(flux: FluxModel) -> None:
    conditioning = flux.encode_prompts(["a polyp", ""])
    shapes = {name: tuple(tensor.shape) for name, tensor in conditioning.tensors().items()}
    assert shapes == {
        "prompt_embeds": (2, 48, 32),
        "prompt_mask": (2, 48),
        "pooled_prompt_embeds": (2, 16),
    }
    assert conditioning.prompt_mask.all()  # the denoiser sees padding
    assert flux.max_tokens == 48
    assert flux.num_tokens(["", "a polyp", "p" * 60]) == [1, 9, 62]  # one for each letter, blank and end


def test_encodings_are_those_of_the_ordinary_pipeline(flux: FluxModel) -> None:
    ours = flux.encode_prompts(["a polyp", ""])
    states, pooled, _ = flux.to_pipeline().encode_prompt(["a polyp", ""], max_sequence_length=48)
    torch.testing.assert_close(ours.prompt_embeds, states)
    torch.testing.assert_close(ours.pooled_prompt_embeds, pooled)


def test_a_prompt_does_not_depend_on_its_neighbours(flux: FluxModel) -> None:
    together, alone = flux.encode_prompts(["ulcer", "a polyp", ""])[1:2], flux.encode_prompts(["a polyp"])
    for name, tensor in alone.tensors().items():
        torch.testing.assert_close(together.tensors()[name], tensor, msg=name)


def test_latents_are_shifted_and_scaled(flux: FluxModel) -> None:
    pixel_values = normal(2, 3, 16, 16).clamp(-1, 1)
    moments = flux.encode_images(pixel_values)
    assert moments.mean.shape == (2, *flux.latent_shape) == (2, 4, 8, 8)
    posterior = flux.vae.encode(pixel_values).latent_dist
    torch.testing.assert_close(moments.mean, 0.3611 * (posterior.mean - 0.1159))
    decoded = flux.decode_latents(moments.mean)
    torch.testing.assert_close(decoded, flux.vae.decode(posterior.mean).sample, rtol=1e-4, atol=1e-5)
    assert decoded.shape[-1] == flux.image_size == 16


def test_packing_is_that_of_the_ordinary_pipeline_and_can_be_undone() -> None:
    latents = normal(2, 3, 8, 4)
    packed = pack_latents(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 3, 8, 4))
    assert torch.equal(unpack_latents(packed, 8, 4), latents)


@pytest.mark.parametrize("image_size", [16, 24])
def test_images_are_those_of_the_ordinary_pipeline(folder: Path, image_size: int) -> None:
    model = load_flux(ModelSource(str(folder)), image_size=image_size)
    prompts = ["a polyp", "an ulcer"]
    latents = draw(model, prompts, guidance_scale=2.5)
    ours = (model.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
    theirs = FluxPipeline.from_pretrained(folder)(
        prompts,
        latents=pack_latents(JobNoise([0, 1], model.latent_shape).draw()),
        height=image_size,
        width=image_size,
        num_inference_steps=4,
        guidance_scale=2.5,
        max_sequence_length=48,
        output_type="pt",
    ).images
    assert ours.shape == (2, 3, image_size, image_size)
    assert ((theirs > 0) & (theirs < 1)).float().mean() > 0.5  # clamping hides little
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("image_size", "mu"), [(256, 0.5), (1024, 1.15), (512, 0.5 + 0.65 * 768 / 3840)])
@pytest.mark.parametrize("shift_type", ["exponential", "linear"])
def test_levels_are_those_of_the_scheduler(image_size: int, mu: float, shift_type: str) -> None:
    config = DEV_CONFIG | {"time_shift_type": shift_type}
    flow = config_to_flow(config, num_patches=(image_size // 16) ** 2)
    assert flow.shift == pytest.approx(math.exp(mu) if shift_type == "exponential" else mu)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], mu=mu)
    ours = torch.tensor([step.timestep for step in euler_steps(flow, 5)])
    torch.testing.assert_close(ours, scheduler.timesteps)


def test_without_dynamic_shifting_the_shift_is_fixed() -> None:
    for num_patches in (16, 4096):
        assert config_to_flow({"shift": 3.0}, num_patches=num_patches) == FlowMatching(1000, shift=3.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas is True; expected null or false"),
        ({"shift_terminal": 0.02}, r"shift_terminal is 0\.02"),
        ({"_class_name": "DDIMScheduler"}, "'_class_name' is 'DDIMScheduler'; expected FlowMatchEuler"),
    ],
)
def test_levels_that_are_not_merely_shifted_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(UnusableModelError, match=message):
        config_to_flow(config, num_patches=16)


def test_an_image_does_not_depend_on_its_batch(flux: FluxModel) -> None:
    together = draw(flux, ["a polyp", "an ulcer"])
    torch.testing.assert_close(together[:1], draw(flux, ["a polyp"]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:1], draw(flux, ["an ulcer"]), atol=1e-3)


def test_guidance_is_an_input_and_is_3_5_if_none_is_given(flux: FluxModel) -> None:
    latents, timesteps = normal(1, *flux.latent_shape), torch.tensor([700.0])
    polyp = flux.encode_prompts(["a polyp"])
    with torch.no_grad():
        default = flux.denoise(latents, timesteps, polyp)
        assert torch.equal(default, flux.denoise(latents, timesteps, polyp.with_guidance(3.5)))
        strong = flux.denoise(latents, timesteps, polyp.with_guidance(7.0))
        both = Conditioning.cat([flux.encode_prompts([""]), polyp])
        guided = guided_prediction(flux, latents, 700.0, both, 7.0, None)
    assert flux.embeds_guidance
    assert not torch.allclose(strong, default, atol=1e-4)
    assert torch.equal(guided, strong)  # one pass, without the empty prompt


def test_saved_pipeline_gives_back_the_same_latents(flux: FluxModel, tmp_path: Path) -> None:
    flux.to_pipeline().save_pretrained(tmp_path / "model", safe_serialization=True)
    loaded = load_base(ModelSource(str(tmp_path / "model")), family="flux")
    assert (loaded.diffusion, loaded.max_tokens) == (flux.diffusion, flux.max_tokens)
    assert torch.equal(draw(loaded, ["a polyp"]), draw(flux, ["a polyp"]))


def test_gradients_reach_the_adapters_of_denoiser_and_both_text_encoders(folder: Path) -> None:
    model = load_flux(ModelSource(str(folder)))
    parts = model.components()
    targets = {
        "denoiser": ("to_q", "x_embedder"),
        "text_encoder": ("q_proj",),
        "text_encoder_2": ("q", "wi_0"),
    }
    for part, suffixes in targets.items():
        add_adapter(parts[part], PartAdapter(rank=2, alpha=2, targets=suffixes), seed=1)
    conditioning = model.encode_prompts(["a polyp"])
    velocity = model.denoise(normal(1, *model.latent_shape), torch.tensor([500.0]), conditioning)
    for part in targets:
        every_b = adapter_parameters(parts[part])[1::2]  # the gradient of A is zero while B is
        grads = torch.autograd.grad(velocity.square().mean(), every_b, retain_graph=True)
        assert all(grad.any() for grad in grads), part


def test_half_precision_weights_with_float32_adapters_keep_the_dtype_of_the_latents(folder: Path) -> None:
    model = load_flux(ModelSource(str(folder), dtype=torch.bfloat16))
    add_adapter(model.denoiser, PartAdapter(rank=2, alpha=2, targets=("x_embedder", "to_q")), seed=1)
    full = load_flux(ModelSource(str(folder)))
    latents, timesteps = normal(2, *model.latent_shape), torch.tensor([900.0, 100.0])
    prompts = ["a polyp", "an ulcer"]
    with torch.no_grad():
        half = model.denoise(latents, timesteps, model.encode_prompts(prompts))
        expected = full.denoise(latents, timesteps, full.encode_prompts(prompts))
    assert half.dtype == latents.dtype == torch.float32
    assert (half - expected).square().mean() < 0.01 * expected.square().mean()


def test_double_weights_are_followed(flux: FluxModel, folder: Path) -> None:
    model = load_flux(ModelSource(str(folder), dtype=torch.float64))
    latents, timesteps = normal(2, *model.latent_shape), torch.tensor([900.0, 100.0])
    prompts = ["a polyp", "an ulcer"]
    with torch.no_grad():
        double = model.denoise(latents.double(), timesteps, model.encode_prompts(prompts))
        expected = flux.denoise(latents, timesteps, flux.encode_prompts(prompts))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, expected.double(), rtol=1e-3, atol=1e-4)


def test_size_and_prompt_length_can_be_chosen(folder: Path) -> None:
    options = {"image_size": 32, "max_tokens": 20}
    model = load_base(ModelSource(str(folder)), family="flux", options=options)
    assert (model.image_size, model.latent_shape) == (32, (4, 16, 16))
    assert model.diffusion.shift == config_to_flow(DEV_CONFIG, num_patches=64).shift
    assert model.encode_prompts(["a polyp"]).prompt_embeds.shape == (1, 20, 32)
    with pytest.raises(ValueError, match="image_size must be a multiple of 4 for this model, got 18"):
        load_flux(ModelSource(str(folder)), image_size=18)
    with pytest.raises(ValueError, match=r"max_tokens must lie in \[1, 512\] for FLUX, got 513"):
        load_flux(ModelSource(str(folder)), max_tokens=513)


def test_parts_of_different_models_are_refused(flux: FluxModel) -> None:
    with pytest.raises(UnusableModelError, match="denoiser of FLUX wants 32, T5 gives 16; take both"):
        FluxModel(flux.vae, flux.denoiser, flux.clip_encoder, flux.clip_encoder, DEV_CONFIG)


def test_wrong_family_missing_part_and_pickled_part_are_named(folder: Path, tmp_path: Path) -> None:
    source = ModelSource(str(write_tiny_flux(tmp_path / "model")))
    with pytest.raises(UnusableModelError, match="model: is of family flux, expected sdxl"):
        load_base(source, family="sdxl")
    weights_file = tmp_path / "model" / "text_encoder_2" / "model.safetensors"
    weights_file.rename(weights_file.with_name("pytorch_model.bin"))
    with pytest.raises(UnusableModelError, match=r"text_encoder_2/pytorch_model\.bin: pickled weights"):
        load_flux(source)
    weights_file.with_name("pytorch_model.bin").unlink()
    with pytest.raises(MissingModelError, match="part 'text_encoder_2' cannot be read here"):
        load_flux(source)
