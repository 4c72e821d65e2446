import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from medgen_classify import (
    ClassifyConfig,
    MissingBackboneError,
    load_classifier,
    predict_probabilities,
    save_classifier,
    train_classifier,
)
from medgen_classify.backbone import Backbone, TinyNet, build_backbone
from medgen_data.image_folder import ImageDataset
from torch import nn

MakeSet = Callable[..., ImageDataset]

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random miniature ViT with another head and ImageNet's normalisation, as a hub folder."""
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=5,
        hidden_dropout_prob=0.1,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    pixels = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": {"height": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


def test_tiny_net_tells_places_apart() -> None:
    net = TinyNet(4)
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., 8:24, 8:24] = 1
    moved = picture.roll(32, dims=-1)
    assert not torch.allclose(net(picture), net(moved), atol=1e-4)


def test_tiny_net_result_does_not_depend_on_the_batch() -> None:
    net = TinyNet(4).eval()
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(pictures)[2:3], net(pictures[2:3]))


@pytest.mark.parametrize("image_size", [64, 128, 192])
def test_tiny_net_takes_multiples_of_64(image_size: int) -> None:
    config = ClassifyConfig(image_size=image_size)
    assert build_backbone(config, CLASSES).logits(torch.rand(2, 3, image_size, image_size)).shape == (2, 3)


def test_tiny_net_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="multiple of 64, got 100"):
        build_backbone(ClassifyConfig(image_size=100), CLASSES)


def test_backbone_normalises_each_channel() -> None:
    backbone = Backbone(nn.Flatten(), 1, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.25, 0.1))
    logits = backbone.logits(torch.tensor([0.6, 0.7, 0.5]).view(1, 3, 1, 1))
    torch.testing.assert_close(logits, torch.tensor([[1.0, 2.0, 2.0]]))


def test_local_folder_gets_a_new_head_and_keeps_its_own_pixels(vit_folder: Path) -> None:
    backbone = build_backbone(ClassifyConfig(backbone=str(vit_folder)), CLASSES)
    assert backbone.image_size == 32
    assert backbone.image_mean == (0.485, 0.456, 0.406)
    assert backbone.logits(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert backbone.network.config.id2label == {0: "blue", 1: "green", 2: "red"}


def test_local_folder_trains_deterministically_and_comes_back(
    vit_folder: Path, make_set: MakeSet, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageClassification

    train_set = make_set("train", num_images=12)
    config = ClassifyConfig(backbone=str(vit_folder), epochs=2, batch_size=4)
    classifier, again = (train_classifier(train_set, config, seed=5) for _ in range(2))
    for ours, theirs in zip(
        classifier.backbone.network.parameters(), again.backbone.network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)  # also with dropout

    save_classifier(classifier, tmp_path / "classifier")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    loaded = load_classifier(tmp_path / "classifier")
    before, after = (predict_probabilities(one, images) for one in (classifier, loaded))
    assert (before == after).all()

    peer = AutoModelForImageClassification.from_pretrained(tmp_path / "classifier")
    assert peer.config.id2label == {0: "blue", 1: "green", 2: "red"}
    torch.testing.assert_close(peer.classifier.weight, classifier.backbone.network.classifier.weight)


def test_local_folder_refuses_another_image_size(vit_folder: Path) -> None:
    with pytest.raises(ValueError, match="takes images of 32 pixels, got image_size 64"):
        build_backbone(ClassifyConfig(backbone=str(vit_folder), image_size=64), CLASSES)


def test_missing_model_names_the_three_ways_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for backbone in ("nobody/no-such-model", str(tmp_path / "nowhere")):
        with pytest.raises(MissingBackboneError, match=r"local folder.*HF_HOME.*network access"):
            build_backbone(ClassifyConfig(backbone=backbone), CLASSES)


def test_pickled_weights_are_never_read(vit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((vit_folder / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(MissingBackboneError, match="safetensors"):
        build_backbone(ClassifyConfig(backbone=str(folder)), CLASSES)
