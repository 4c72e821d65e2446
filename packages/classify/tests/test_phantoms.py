from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medgen_classify import ClassifyConfig, evaluate_classifier, train_classifier
from medgen_data.image_folder import ImageDataset
from medgen_data.phantoms import write_phantom_dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return write_phantom_dataset(tmp_path_factory.mktemp("phantoms") / "set", num_images=320, size=64, seed=0)


@pytest.mark.parametrize("attribute", ["label", "facts.quadrant"])
def test_256_phantoms_are_enough_to_recognise_class_and_place(phantoms: ImageDataset, attribute: str) -> None:
    config = ClassifyConfig(attribute=attribute)
    classifier = train_classifier(phantoms.select(split="train"), config, seed=0)
    evaluation = evaluate_classifier(classifier, phantoms.select(split="test"), seed=0, num_resamples=50)
    assert evaluation.figures["accuracy"].value >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("attribute", ["label", "facts.quadrant"])
def test_1200_phantoms_give_a_trustworthy_judge(tmp_path: Path, attribute: str) -> None:
    whole = write_phantom_dataset(tmp_path / "set", num_images=1500, size=64, seed=1)
    classifier = train_classifier(whole.select(split="train"), ClassifyConfig(attribute=attribute), seed=0)
    evaluation = evaluate_classifier(classifier, whole.select(split="test"), seed=0, num_resamples=50)
    assert evaluation.figures["accuracy"].value >= 0.97


def test_shuffled_labels_are_worth_nothing(phantoms: ImageDataset) -> None:
    train_set = phantoms.select(split="train")
    order = np.random.default_rng(0).permutation(len(train_set.records))
    shuffled = tuple(
        record.model_copy(update={"label": train_set.records[place].label})
        for record, place in zip(train_set.records, order, strict=True)
    )
    classifier = train_classifier(replace(train_set, records=shuffled), ClassifyConfig(), seed=0)
    evaluation = evaluate_classifier(classifier, phantoms.select(split="test"), seed=0, num_resamples=50)
    assert evaluation.figures["auc"].value == pytest.approx(0.5, abs=0.2)
