import json
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_models import (
    MissingModelError,
    MsdmModel,
    MsdmPipeline,
    SamplingConfig,
    SamplingJob,
    load_model,
    model_sha256,
    sample_images,
    save_model,
)


def test_pipeline_folder_gives_back_the_same_images(model: MsdmModel, tmp_path: Path) -> None:
    model.vae.register_to_config(latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(0.5, 1.0, 2.0, 4.0))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.diffusion == model.diffusion
    assert loaded.prompt_encoder.max_tokens == model.prompt_encoder.max_tokens
    jobs, config = [SamplingJob("a polyp", 3)], SamplingConfig(num_inference_steps=3)
    (ours,), (theirs,) = sample_images(model, jobs, config), sample_images(loaded, jobs, config)
    np.testing.assert_array_equal(ours, theirs)


def test_folder_is_an_ordinary_pipeline_of_safetensors(model: MsdmModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    suffixes = {file.suffix for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
    pipeline = MsdmPipeline.from_pretrained(tmp_path / "model")
    config = SamplingConfig(num_inference_steps=3, guidance_scale=4.5)
    (expected,) = sample_images(model, [SamplingJob("a polyp", 9)], config)
    (image,) = pipeline("a polyp", seeds=[9], num_inference_steps=3).images
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_saving_never_leaves_half_a_folder_nor_overwrites(model: MsdmModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(FileExistsError, match="choose another folder"):
        save_model(model, tmp_path / "model")


def test_hash_follows_the_weights(model: MsdmModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a")
    save_model(model, tmp_path / "b")
    assert model_sha256(tmp_path / "a") == model_sha256(tmp_path / "b")
    with torch.no_grad():
        model.denoiser.conv_in.bias[0] += 1e-6
    save_model(model, tmp_path / "c")
    assert model_sha256(tmp_path / "a") != model_sha256(tmp_path / "c")


def test_missing_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match=r"expected a model folder with model_index\.json"):
        load_model(tmp_path / "nothing")


def test_unknown_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(ValueError, match=r"'_class_name' is 'OtherPipeline'; known are .*MsdmPipeline"):
        load_model(tmp_path)
