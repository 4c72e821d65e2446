from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HunyuanDiTPipeline
from medgen_models.adapters.config import PartAdapter
from medgen_models.adapters.wiring import adapter_parameters, add_adapter
from medgen_models.diffusion import Diffusion
from medgen_models.errors import MissingModelError, UnusableModelError
from medgen_models.families.hunyuan_dit import HunyuanDitModel, load_hunyuan_dit
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.protocol import Conditioning, TextToImageModel
from medgen_models.sampling import JobNoise, SamplingConfig, guided_prediction, sample_latents
from medgen_models.tiny.hunyuan_dit import tiny_hunyuan_dit, write_tiny_hunyuan_dit
from torch import Tensor

PROMPTS = ["a polyp", "an ulcer"]
TIMESTEPS = torch.tensor([3, 900])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_hunyuan_dit(tmp_path_factory.mktemp("hunyuan") / "model", seed=3)


@pytest.fixture(scope="module")
def hunyuan(folder: Path) -> HunyuanDitModel:
    return load_hunyuan_dit(ModelSource(str(folder)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def draw(model: TextToImageModel, prompts: list[str], num_steps: int = 4) -> Tensor:
    config = SamplingConfig(num_inference_steps=num_steps, guidance_scale=2.5)
    conditioning, empty = model.encode_prompts(prompts), model.encode_prompts([""] * len(prompts))
    noise = JobNoise(range(len(prompts)), model.latent_shape)
    return sample_latents(model, noise, conditioning, empty, config)


def draw_with_diffusers(pipeline: HunyuanDiTPipeline, image_size: int, num_steps: int = 4) -> Tensor:
    """Images of PROMPTS in [0, 1], from the same noise and with a solver that takes the same steps."""
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    images: Tensor = pipeline(
        PROMPTS,
        latents=JobNoise([0, 1], (4, image_size // 8, image_size // 8)).draw(),
        height=image_size,
        width=image_size,
        num_inference_steps=num_steps,
        guidance_scale=2.5,
        use_resolution_binning=False,
        output_type="pt",
    ).images
    return images


def test_folder_gives_a_family_of_the_right_shapes(folder: Path) -> None:
    model = load_base(ModelSource(str(folder)))
    assert isinstance(model, HunyuanDitModel)
    assert (model.image_size, model.latent_shape) == (32, (4, 4, 4))
    assert model.diffusion == Diffusion("v", "scaled-linear", beta_start=0.00085, beta_end=0.03)
    assert set(model.components()) == {"denoiser", "text_encoder", "text_encoder_2", "vae"}
    assert not any(p.requires_grad for part in model.components().values() for p in part.parameters())
    moments = model.encode_images(normal(2, 3, 32, 32).clamp(-1, 1))
    assert moments.mean.shape == moments.std.shape == (2, 4, 4, 4)
    posterior = model.vae.encode(normal(2, 3, 32, 32).clamp(-1, 1)).latent_dist
    torch.testing.assert_close(moments.mean, 0.13025 * posterior.mean)
    assert model.decode_latents(moments.mean).shape == (2, 3, 32, 32)


def test_prompts_are_read_by_both_encoders_at_their_own_length(hunyuan: HunyuanDitModel) -> None:
    conditioning = hunyuan.encode_prompts(["a polyp", ""])
    shapes = {name: tuple(tensor.shape) for name, tensor in conditioning.tensors().items()}
    assert shapes == {
        "prompt_embeds": (2, 77, 16),
        "prompt_mask": (2, 77),
        "second_prompt_embeds": (2, 256, 32),
        "second_prompt_mask": (2, 256),
    }
    assert conditioning.prompt_mask.sum(dim=1).tolist() == [8, 2]  # letters, with start and end
    assert conditioning.tensors()["second_prompt_mask"].sum(dim=1).tolist() == [9, 1]
    assert hunyuan.max_tokens == 256
    assert hunyuan.num_tokens(["", "a polyp", "p" * 300]) == [1, 9, 302]


def test_encodings_are_those_of_the_ordinary_pipeline(hunyuan: HunyuanDitModel) -> None:
    conditioning = hunyuan.encode_prompts(["a polyp", ""]).tensors()
    pipeline = hunyuan.to_pipeline()
    for index, name in enumerate(["prompt", "second_prompt"]):
        states, empty, mask, empty_mask = pipeline.encode_prompt(
            "a polyp", device=hunyuan.device, text_encoder_index=index
        )
        torch.testing.assert_close(conditioning[f"{name}_embeds"], torch.cat([states, empty]))
        assert torch.equal(conditioning[f"{name}_mask"], torch.cat([mask, empty_mask]).bool())


def test_a_prompt_does_not_depend_on_its_neighbours(hunyuan: HunyuanDitModel) -> None:
    together = hunyuan.encode_prompts(["ulcer", "a polyp", ""])[1:2].tensors()
    for name, tensor in hunyuan.encode_prompts(["a polyp"]).tensors().items():
        torch.testing.assert_close(together[name], tensor, msg=name)


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize("image_size", [32, 48])
def test_images_are_those_of_the_ordinary_pipeline(tmp_path: Path, knows_size: bool, image_size: int) -> None:
    pipeline = tiny_hunyuan_dit(seed=3, knows_size=knows_size)
    pipeline.save_pretrained(tmp_path / "model", safe_serialization=True)
    model = load_hunyuan_dit(ModelSource(str(tmp_path / "model")), image_size=image_size)
    latents = draw(model, PROMPTS)
    ours = (model.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
    theirs = draw_with_diffusers(pipeline, image_size)
    assert ours.shape == (2, 3, image_size, image_size)
    assert ((theirs > 0) & (theirs < 1)).float().mean() > 0.5  # clamping hides little
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_size_of_the_image_is_told_where_the_config_wants_it(folder: Path) -> None:
    model = load_hunyuan_dit(ModelSource(str(folder)))
    seen: dict[str, Tensor] = {}
    model.denoiser.time_extra_emb.register_forward_pre_hook(
        lambda module, inputs: seen.update(image_meta_size=inputs[2], style=inputs[3])
    )
    with torch.no_grad():
        model.denoise(normal(2, 4, 6, 6), TIMESTEPS, model.encode_prompts(PROMPTS))
    assert seen["image_meta_size"].tolist() == [[1024, 1024, 48, 48, 0, 0]] * 2
    assert seen["style"].tolist() == [0, 0]


def test_variance_channels_are_dropped_and_padding_takes_no_part(hunyuan: HunyuanDitModel) -> None:
    latents, conditioning = normal(2, *hunyuan.latent_shape), hunyuan.encode_prompts(PROMPTS)
    whole: list[Tensor] = []
    hook = hunyuan.denoiser.register_forward_hook(lambda module, inputs, output: whole.append(output[0]))
    with torch.no_grad():
        prediction = hunyuan.denoise(latents, TIMESTEPS, conditioning)
        states = torch.where(conditioning.prompt_mask[..., None], conditioning.prompt_embeds, 7.0)
        tensors = conditioning.tensors() | {"prompt_embeds": states}
        other_padding = hunyuan.denoise(latents, TIMESTEPS, Conditioning(**tensors))
    hook.remove()
    assert whole[0].shape == (2, 8, 4, 4)
    assert torch.equal(prediction, whole[0][:, :4])
    assert not torch.allclose(prediction, whole[0][:, 4:], atol=1e-2)
    torch.testing.assert_close(other_padding, prediction)


def test_every_part_of_the_condition_matters(hunyuan: HunyuanDitModel) -> None:
    latents, conditioning = normal(2, *hunyuan.latent_shape), hunyuan.encode_prompts(PROMPTS)
    with torch.no_grad():
        prediction = hunyuan.denoise(latents, TIMESTEPS, conditioning)
        for name, tensor in conditioning[[1, 0]].tensors().items():
            swapped = Conditioning(**conditioning.tensors() | {name: tensor})
            assert not torch.allclose(hunyuan.denoise(latents, TIMESTEPS, swapped), prediction), name
        assert not torch.allclose(hunyuan.denoise(latents, TIMESTEPS + 90, conditioning), prediction)


def test_guidance_mixes_in_the_empty_prompt(hunyuan: HunyuanDitModel) -> None:
    latents = normal(1, *hunyuan.latent_shape)
    polyp, empty = hunyuan.encode_prompts(["a polyp"]), hunyuan.encode_prompts([""])
    with torch.no_grad():
        cond, uncond = (hunyuan.denoise(latents, TIMESTEPS[1:], each) for each in (polyp, empty))
        guided = guided_prediction(hunyuan, latents, 900, Conditioning.cat([empty, polyp]), 5.0, None)
    assert not torch.allclose(cond, uncond, atol=1e-3)
    torch.testing.assert_close(guided, uncond + 5 * (cond - uncond), rtol=1e-4, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(hunyuan: HunyuanDitModel) -> None:
    together = draw(hunyuan, PROMPTS)
    torch.testing.assert_close(together[:1], draw(hunyuan, PROMPTS[:1]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[:1], draw(hunyuan, PROMPTS[1:]), atol=1e-3)


def test_saved_pipeline_gives_back_the_same_latents(hunyuan: HunyuanDitModel, tmp_path: Path) -> None:
    hunyuan.to_pipeline().save_pretrained(tmp_path / "model", safe_serialization=True)
    loaded = load_base(ModelSource(str(tmp_path / "model")), family="hunyuan-dit")
    assert loaded.diffusion == hunyuan.diffusion
    assert torch.equal(draw(loaded, PROMPTS), draw(hunyuan, PROMPTS))


def test_gradients_reach_the_adapters_of_denoiser_and_both_text_encoders(folder: Path) -> None:
    model = load_hunyuan_dit(ModelSource(str(folder)))
    parts = model.components()
    targets = {
        "denoiser": ("to_q", "to_k", "to_v", "to_out.0", "proj"),
        "text_encoder": ("query", "value"),
        "text_encoder_2": ("q", "wi_0"),
    }
    for part, suffixes in targets.items():
        add_adapter(parts[part], PartAdapter(rank=2, alpha=2, targets=suffixes), seed=1)
    prediction = model.denoise(normal(2, *model.latent_shape), TIMESTEPS, model.encode_prompts(PROMPTS))
    for part in targets:
        every_b = adapter_parameters(parts[part])[1::2]  # the gradient of A is zero while B is
        grads = torch.autograd.grad(prediction.square().mean(), every_b, retain_graph=True)
        assert all(grad.any() for grad in grads), part


def test_half_precision_weights_with_float32_adapters_keep_the_dtype_of_the_latents(folder: Path) -> None:
    model = load_hunyuan_dit(ModelSource(str(folder), dtype=torch.bfloat16))
    add_adapter(model.denoiser, PartAdapter(rank=2, alpha=2, targets=("proj", "to_q")), seed=1)
    full = load_hunyuan_dit(ModelSource(str(folder)))
    latents, timesteps = normal(2, *model.latent_shape), torch.tensor([992, 100])  # exact in bfloat16
    with torch.no_grad():
        half = model.denoise(latents, timesteps, model.encode_prompts(PROMPTS))
        expected = full.denoise(latents, timesteps, full.encode_prompts(PROMPTS))
    assert half.dtype == latents.dtype == torch.float32
    assert (half - expected).square().mean() < 0.01 * expected.square().mean()


def test_double_weights_are_followed(folder: Path) -> None:
    model = load_hunyuan_dit(ModelSource(str(folder), dtype=torch.float64))
    full = load_hunyuan_dit(ModelSource(str(folder)))
    latents = normal(2, *model.latent_shape)
    with torch.no_grad():
        double = model.denoise(latents.double(), TIMESTEPS, model.encode_prompts(PROMPTS))
        expected = full.denoise(latents, TIMESTEPS, full.encode_prompts(PROMPTS))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, expected.double(), rtol=1e-3, atol=1e-4)


def test_size_can_be_chosen(folder: Path) -> None:
    model = load_base(ModelSource(str(folder)), options={"image_size": 64})
    assert (model.image_size, model.latent_shape) == (64, (4, 8, 8))
    with pytest.raises(ValueError, match="image_size must be a multiple of 16 for this model, got 40"):
        load_hunyuan_dit(ModelSource(str(folder)), image_size=40)


def test_parts_of_different_models_are_refused(hunyuan: HunyuanDitModel) -> None:
    parts = (hunyuan.vae, hunyuan.denoiser, hunyuan.t5_encoder, hunyuan.t5_encoder, hunyuan.diffusion)
    with pytest.raises(
        UnusableModelError, match=r"text_encoder: .* wants 77 tokens of width 16, got 256 of 32"
    ):
        HunyuanDitModel(*parts)


def test_wrong_family_missing_part_and_pickled_part_are_named(tmp_path: Path) -> None:
    source = ModelSource(str(write_tiny_hunyuan_dit(tmp_path / "model")))
    with pytest.raises(UnusableModelError, match="model: is of family hunyuan-dit, expected flux"):
        load_base(source, family="flux")
    weights_file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(UnusableModelError, match=r"transformer/diffusion_pytorch_model\.bin: pickled"):
        load_hunyuan_dit(source)
    weights_file.with_suffix(".bin").unlink()
    with pytest.raises(MissingModelError, match="part 'transformer' cannot be read here"):
        load_hunyuan_dit(source)
