import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from medgen_classify import (
    Classifier,
    ClassifyConfig,
    load_classifier,
    predict_probabilities,
    save_classifier,
    train_classifier,
)
from medgen_data.image_folder import ImageDataset

MakeSet = Callable[..., ImageDataset]


@pytest.fixture
def classifier(make_set: MakeSet) -> Classifier:
    return train_classifier(make_set("train"), ClassifyConfig(epochs=1), seed=0)


def test_saved_and_loaded_gives_the_same_output(classifier: Classifier, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved")
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    assert (predict_probabilities(classifier, images) == predict_probabilities(loaded, images)).all()
    assert (loaded.config, loaded.classes, loaded.training) == (
        classifier.config,
        classifier.classes,
        classifier.training,
    )


def test_saving_replaces_an_older_classifier_and_leaves_nothing_beside(
    classifier: Classifier, tmp_path: Path
) -> None:
    for _ in range(2):
        save_classifier(classifier, tmp_path / "out" / "saved")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["saved"]


def test_saving_never_replaces_a_folder_that_is_something_else(
    classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(FileExistsError, match="not a classifier folder"):
        save_classifier(classifier, tmp_path / "precious")


def test_loading_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"classifier\.json is missing"):
        load_classifier(tmp_path)


def test_loading_refuses_weights_of_another_network(classifier: Classifier, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path / "saved")
    card = json.loads((tmp_path / "saved/classifier.json").read_text())
    card["classes"].append("yellow")
    (tmp_path / "saved/classifier.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit classifier\.json"):
        load_classifier(tmp_path / "saved")


def test_loading_refuses_cut_weights_and_a_malformed_card(classifier: Classifier, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path / "saved")
    weights_file = tmp_path / "saved/model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="train again"):
        load_classifier(tmp_path / "saved")
    (tmp_path / "saved/classifier.json").write_text("{}")
    with pytest.raises(ValueError, match=r"classifier\.json is malformed"):
        load_classifier(tmp_path / "saved")
