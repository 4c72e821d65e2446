import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from medgen_models import Diffusion, MissingModelError, SamplingConfig, SamplingJob, sample_images
from medgen_models.class_dit.pipeline import ClassDitPipeline
from medgen_models.class_dit.tiny import TINY_DIT, tiny_autoencoder, tiny_dit
from medgen_models.families.dit import DitModel, load_autoencoder, load_dit, new_dit, untrained_dit
from medgen_models.model_source import ModelSource
from medgen_models.protocol import TextToImageModel
from medgen_models.sampling import guided_prediction


@pytest.fixture
def dit() -> DitModel:
    return tiny_dit(seed=3)


def test_prompts_become_class_ids(dit: DitModel) -> None:
    conditioning = dit.encode_prompts(["polyps", "", "a normal cecum"])
    assert conditioning.prompt_embeds.tolist() == [[[1.0]], [[2.0]], [[0.0]]]
    assert conditioning.prompt_mask.tolist() == [[True]] * 3


def test_class_ids_reach_the_denoiser(dit: DitModel) -> None:
    latents, timesteps = torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 999])
    by_prompt = dit.denoise(latents, timesteps, dit.encode_prompts(["normal cecum", "polyps", ""]))
    by_id = dit.denoiser(latents, timesteps, torch.tensor([0, 1, 2]))
    assert torch.equal(by_prompt, by_id[:, :4])
    model_pred, variance_pred = dit.denoise_with_variance(
        latents, timesteps, dit.encode_prompts(["normal cecum", "polyps", ""])
    )
    assert torch.equal(model_pred, by_id[:, :4])
    assert torch.equal(variance_pred, by_id[:, 4:])


def test_latents_are_scaled_as_in_stable_diffusion(dit: DitModel) -> None:
    pixel_values = torch.rand(2, 3, 16, 16) * 2 - 1
    moments = dit.encode_images(pixel_values)
    assert moments.mean.shape == moments.std.shape == (2, *dit.latent_shape) == (2, 4, 8, 8)
    posterior = dit.vae.encode(pixel_values).latent_dist
    torch.testing.assert_close(moments.mean, 0.18215 * posterior.mean)
    torch.testing.assert_close(moments.std, 0.18215 * posterior.std)
    decoded = dit.decode_latents(moments.mean)
    torch.testing.assert_close(decoded, dit.vae.decode(posterior.mean).sample, rtol=1e-4, atol=1e-5)
    assert decoded.shape[-1] == dit.image_size == 16


def test_same_seed_builds_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    vae = tiny_autoencoder()
    first, second, other = (new_dit(TINY_DIT, vae, ["a", "b"], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(first.denoiser.parameters(), second.denoiser.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.denoiser.embed_patches.weight, other.denoiser.embed_patches.weight)
    assert first.diffusion == Diffusion("epsilon", "linear", beta_start=1e-4, beta_end=0.02)


def test_the_autoencoder_is_frozen_and_the_denoiser_is_not(dit: DitModel) -> None:
    assert not any(parameter.requires_grad for parameter in dit.vae.parameters())
    assert sum(not parameter.requires_grad for parameter in dit.denoiser.parameters()) == 1  # the positions


def test_an_image_depends_on_its_class_and_seed_not_on_its_batch(dit: DitModel) -> None:
    family: TextToImageModel = dit
    config = SamplingConfig(num_inference_steps=3, guidance_scale=4.0, batch_size=2)
    jobs = [SamplingJob("polyps", 7), SamplingJob("normal cecum", 7), SamplingJob("polyps", 8)]
    images = list(sample_images(family, jobs, config))
    (alone,) = sample_images(family, jobs[:1], config)
    np.testing.assert_array_equal(images[0], alone)
    assert images[0].shape == (16, 16, 3)
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    unguided = next(iter(sample_images(family, jobs[:1], config.model_copy(update={"guidance_scale": 1.0}))))
    assert not np.array_equal(images[0], unguided)  # the null class takes part


def test_guidance_can_leave_the_last_channel_to_the_class_alone(dit: DitModel) -> None:
    latents = torch.randn(1, 4, 8, 8)
    both = dit.encode_prompts(["", "polyps"])
    unconditional, conditional = dit.denoise(
        latents.expand(2, -1, -1, -1), torch.tensor([500, 500]), both
    ).chunk(2)
    everywhere = unconditional + 4.0 * (conditional - unconditional)
    three = guided_prediction(dit, latents, 500, both, 4.0, None, guided_channels=3)
    torch.testing.assert_close(three[:, :3], everywhere[:, :3])
    torch.testing.assert_close(three[:, 3], conditional[:, 3])
    assert not torch.allclose(conditional[:, 3], everywhere[:, 3])
    torch.testing.assert_close(guided_prediction(dit, latents, 500, both, 4.0, None), everywhere)


def test_folder_gives_back_classes_schedule_and_images(dit: DitModel, tmp_path: Path) -> None:
    dit.to_pipeline().save_pretrained(tmp_path / "model", safe_serialization=True)
    loaded = load_dit(ModelSource(str(tmp_path / "model")))
    assert loaded.class_names.names == ("normal cecum", "polyps")
    assert loaded.diffusion == dit.diffusion
    for name, tensor in dit.denoiser.state_dict().items():
        assert torch.equal(loaded.denoiser.state_dict()[name], tensor), name
    config = SamplingConfig(num_inference_steps=3, guidance_scale=4.0, guided_channels=3)
    (ours,) = sample_images(dit, [SamplingJob("polyps", 5)], config)
    pipeline = ClassDitPipeline.from_pretrained(tmp_path / "model", use_safetensors=True)
    (image,) = pipeline("polyps", seeds=[5], num_inference_steps=3).images
    np.testing.assert_array_equal(np.asarray(image), ours)


def test_folder_names_the_denoiser_so_that_diffusers_finds_it(dit: DitModel, tmp_path: Path) -> None:
    dit.to_pipeline().save_pretrained(tmp_path / "model", safe_serialization=True)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "ClassDitPipeline"
    assert index["transformer"] == ["medgen_models.class_dit.transformer", "ClassDit"]
    assert index["class_names"] == ["normal cecum", "polyps"]
    suffixes = {file.suffix for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors"}


def test_pipeline_refuses_a_prompt_without_a_class(dit: DitModel) -> None:
    with pytest.raises(ValueError, match="'an ulcer' names no class; known are normal cecum, polyps"):
        dit.to_pipeline()("an ulcer")


def test_parts_that_do_not_belong_together_are_refused(dit: DitModel) -> None:
    with pytest.raises(ValueError, match="denoiser has 2 classes, got 3 names: a, b, c"):
        DitModel(dit.vae, dit.denoiser, ["a", "b", "c"], dit.diffusion)
    with pytest.raises(ValueError, match="wants 4 latent channels, the autoencoder has 16"):
        DitModel(AutoencoderKL(latent_channels=16), dit.denoiser, ["a", "b"], dit.diffusion)
    with pytest.raises(ValueError, match="2 times smaller, the preset wants 8"):
        new_dit("dit-s-8", dit.vae, ["a", "b"], seed=0)


def test_autoencoder_is_found_in_its_own_folder_and_in_that_of_a_pipeline(
    dit: DitModel, tmp_path: Path
) -> None:
    dit.vae.save_pretrained(tmp_path / "alone", safe_serialization=True)
    dit.to_pipeline().save_pretrained(tmp_path / "pipeline", safe_serialization=True)
    for folder in ("alone", "pipeline"):
        loaded = load_autoencoder(str(tmp_path / folder))
        for name, tensor in dit.vae.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name


def test_absent_or_pickled_autoencoder_is_refused(dit: DitModel, tmp_path: Path) -> None:
    with pytest.raises(
        MissingModelError, match=r"nothing'.*config\.json and diffusion_pytorch_model\.safetensors"
    ):
        untrained_dit("dit-s-8", str(tmp_path / "nothing"), ["a"], seed=0)
    dit.vae.save_pretrained(tmp_path / "vae", safe_serialization=True)
    weights_file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(MissingModelError, match="no config and safetensors weights found here"):
        load_autoencoder(str(tmp_path / "vae"))
