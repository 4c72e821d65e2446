import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medgen_metrics.features.loading import load_extractor
from medgen_metrics.features.processor_config import read_preprocessing
from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.features.vit import HfVisionExtractor, parse_model_name
from medgen_metrics.features.weights import read_weights, write_weights
from torch import Tensor

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
}
CROPPING = {
    **PROCESSOR,
    "image_processor_type": "CLIPImageProcessor",
    "resample": 3,
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
}


def save(folder: Path, build: Callable[[], Any], processor: dict[str, Any] = PROCESSOR) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def vit_classifier() -> Any:
    config = transformers.ViTConfig(**SIZES, num_labels=5)
    return transformers.ViTForImageClassification(config)


def vit_with_pooler() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(**SIZES), add_pooling_layer=True)


def clip_vision() -> Any:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES))


def random_images(num_images: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, size, size), generator=generator).to(torch.uint8)


def by_the_processor(folder: Path, images: Tensor) -> Tensor:
    """Prepare images with the processor class of transformers itself."""
    kind = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    processor = getattr(transformers, f"{kind}Pil").from_pretrained(folder)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    return torch.from_numpy(np.stack(processor(arrays)["pixel_values"]))


def test_layers_of_a_classifier_are_those_of_transformers(tmp_path: Path) -> None:
    model = save(tmp_path, vit_classifier)
    images = random_images()
    with torch.inference_mode():
        expected = model(by_the_processor(tmp_path, images), output_hidden_states=True)
        cls = model.vit(by_the_processor(tmp_path, images)).last_hidden_state[:, 0]
    extractor = load_extractor(f"hf:{tmp_path}")
    torch.testing.assert_close(extractor(images), cls, rtol=1e-4, atol=1e-5)
    assert extractor.dim == 24
    logits = load_extractor(f"hf:{tmp_path}#logits")
    torch.testing.assert_close(logits(images), expected.logits, rtol=1e-4, atol=1e-5)
    assert logits.dim == 5


def test_pooled_layer_is_the_models_own(tmp_path: Path) -> None:
    model = save(tmp_path, vit_with_pooler)
    images = random_images()
    with torch.inference_mode():
        expected = model(by_the_processor(tmp_path, images)).pooler_output
    pooled = HfVisionExtractor(f"hf:{tmp_path}#pooled")(images)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)


def test_clip_vision_has_token_and_pooled_layers(tmp_path: Path) -> None:
    model = save(tmp_path, clip_vision, CROPPING)
    images = random_images(2, size=50)
    with torch.inference_mode():
        expected = model(by_the_processor(tmp_path, images))
    for layer, values in (("cls", expected.last_hidden_state[:, 0]), ("pooled", expected.pooler_output)):
        features = HfVisionExtractor(f"hf:{tmp_path}#{layer}")(images)
        torch.testing.assert_close(features, values, rtol=1e-4, atol=1e-5)


def test_vision_half_of_a_whole_clip_is_taken(tmp_path: Path) -> None:
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 8}
    del text["image_size"], text["patch_size"]
    config = transformers.CLIPConfig(text_config=text, vision_config=SIZES, projection_dim=16)
    model = save(tmp_path, lambda: transformers.CLIPModel(config), CROPPING)
    images = random_images(2)
    with torch.inference_mode():
        expected = model.vision_model(by_the_processor(tmp_path, images)).last_hidden_state[:, 0]
    torch.testing.assert_close(HfVisionExtractor(f"hf:{tmp_path}")(images), expected, rtol=1e-4, atol=1e-5)


def test_convolutional_classifier_has_pooled_features_but_no_tokens(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"
    )
    save(tmp_path, lambda: transformers.ResNetModel(config))
    assert HfVisionExtractor(f"hf:{tmp_path}#pooled")(random_images()).shape == (3, 12)
    with pytest.raises(ValueError, match=r"layer cls needs tokens \[B, T, D\].*take #pooled"):
        HfVisionExtractor(f"hf:{tmp_path}#cls")


@pytest.mark.parametrize("layer", ["pooled", "logits"])
def test_layer_the_checkpoint_lacks_is_refused_not_drawn(tmp_path: Path, layer: str) -> None:
    save(tmp_path, vit_classifier if layer == "pooled" else vit_with_pooler)
    lacks = "pooler.dense.bias" if layer == "pooled" else "classifier.bias"
    with pytest.raises(ValueError, match=f"layer {layer} is not in this checkpoint, which lacks .*{lacks}"):
        HfVisionExtractor(f"hf:{tmp_path}#{layer}")


@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5])
def test_preprocessing_equals_the_processor_of_transformers(tmp_path: Path, resample: int) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "resample": resample}))
    images = random_images(2, size=45)
    torch.testing.assert_close(
        read_preprocessing(tmp_path)(images), by_the_processor(tmp_path, images), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("size", [(45, 61), (90, 41), (37, 37)])
def test_crop_equals_the_processor_of_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CROPPING))
    images = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    torch.testing.assert_close(
        read_preprocessing(tmp_path)(images), by_the_processor(tmp_path, images), rtol=1e-5, atol=1e-5
    )


def test_name_of_the_preprocessing_says_all(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CROPPING))
    assert read_preprocessing(tmp_path).name == (
        "bicubic-pillow shortest edge 40, centre 32x32, (value - (127.5, 102, 76.5)) / (127.5, 63.75, 51)"
    )


def test_processor_inside_a_processor_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    assert read_preprocessing(tmp_path).resize == "bilinear-pillow"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"resample": None}, "has no 'resample'"),
        ({"resample": 9}, "resample must be 0..5"),
        ({"crop_pct": 0.875}, "only plain resizing and centre crops"),
        ({"size": {"height": 32, "width": 48}}, "size must be a number or equal height and width"),
        ({"size": {"shortest_edge": 32}}, "shortest_edge without do_center_crop"),
        ({"image_std": [0.5, 0.0, 0.5]}, "expected three means and deviations"),
    ],
)
def test_preprocessing_that_cannot_be_reproduced_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **change}))
    with pytest.raises(ValueError, match=problem) as caught:
        read_preprocessing(tmp_path)
    assert "preprocessor_config.json" in str(caught.value)


def test_missing_preprocessing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json; copy it"):
        read_preprocessing(tmp_path)


def test_identity_follows_weights_and_settings_but_not_the_place(tmp_path: Path) -> None:
    folders = [tmp_path / place / "vit-tiny" for place in "abcd"]
    for folder in folders:
        save(folder, vit_classifier)
    state = read_weights(folders[1] / "model.safetensors")
    state["vit.layernorm.bias"] = state["vit.layernorm.bias"] + 1
    write_weights(folders[1] / "model.safetensors", state)
    for folder, field, value in (
        (folders[2], "layer_norm_eps", 0.1),
        (folders[3], "transformers_version", "4"),
    ):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, field: value}))
    first, other_weights, other_settings, other_version = (HfVisionExtractor(f"hf:{f}") for f in folders)
    assert first.id == "hf:vit-tiny#cls"
    assert first.sha256 not in {other_weights.sha256, other_settings.sha256}
    assert first.sha256 == other_version.sha256


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    save(tmp_path, vit_classifier)
    before = torch.get_rng_state()
    HfVisionExtractor(f"hf:{tmp_path}")
    assert torch.equal(torch.get_rng_state(), before)


def test_pickled_weights_are_refused_with_advice(tmp_path: Path) -> None:
    save(tmp_path, vit_classifier)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingWeightsError, match=r"pickled weights \(\.bin\) only.*model\.safetensors"):
        HfVisionExtractor(f"hf:{tmp_path}")


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    save(tmp_path, vit_classifier)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors: is damaged or no weight file"):
        HfVisionExtractor(f"hf:{tmp_path}")


def test_sharded_weights_are_the_same_model(tmp_path: Path) -> None:
    model = save(tmp_path / "whole", vit_classifier)
    save(tmp_path / "sharded", vit_classifier)
    (tmp_path / "sharded" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    whole, sharded = (HfVisionExtractor(f"hf:{tmp_path / name}") for name in ("whole", "sharded"))
    assert whole.sha256 == sharded.sha256
    assert torch.equal(whole(random_images()), sharded(random_images()))


def test_code_from_a_repository_is_never_run(tmp_path: Path) -> None:
    save(tmp_path, vit_classifier)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match="needs code from its repository, which is never run"):
        HfVisionExtractor(f"hf:{tmp_path}")


def test_preprocessing_of_another_model_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, vit_classifier, {**PROCESSOR, "size": {"height": 48, "width": 48}})
    with pytest.raises(ValueError, match="does not take the 48 x 48 images"):
        HfVisionExtractor(f"hf:{tmp_path}")


def test_absent_model_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        MissingWeightsError, match=r"not in the local Hugging Face cache.*Nothing is downloaded"
    ):
        HfVisionExtractor("hf:someone/no-such-vit-anywhere@main")
    with pytest.raises(MissingWeightsError, match="no such folder"):
        HfVisionExtractor(f"hf:{tmp_path}/gone/away")


def test_snapshot_in_the_cache_is_known_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    commit = "0123456789" * 4
    repo = tmp_path / "models--someone--vit"
    save(repo / "snapshots" / commit, vit_classifier)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    extractor = HfVisionExtractor("hf:someone/vit@main#logits")
    assert extractor.id == f"hf:someone/vit@{commit}#logits"
    assert extractor.revision == commit


def test_names_have_three_parts() -> None:
    assert parse_model_name("hf:a/b").layer == "cls"
    parts = parse_model_name("hf:a/b@v1#pooled")
    assert (parts.model, parts.revision, parts.layer) == ("a/b", "v1", "pooled")
    with pytest.raises(ValueError, match="no layer 'mean' in 'hf:a/b#mean'; expected one of cls, pooled"):
        parse_model_name("hf:a/b#mean")
    with pytest.raises(ValueError, match="expected hf:NAME_OR_FOLDER"):
        parse_model_name("hf:")


def test_folder_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder has no revisions"):
        HfVisionExtractor(f"hf:{tmp_path}@main")
