import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_classify import (
    Classifier,
    ClassifyConfig,
    predict_probabilities,
    train_classifier,
    write_predictions,
)
from medgen_classify.labelled_images import decode_labelled_images
from medgen_classify.predict import make_predictions
from medgen_data.image_folder import ImageDataset
from medgen_data.images import decode_image, fit_square

MakeSet = Callable[..., ImageDataset]


@pytest.fixture
def classifier(make_set: MakeSet) -> Classifier:
    return train_classifier(make_set("train"), ClassifyConfig(epochs=1), seed=0)


def test_probabilities_sum_to_one_and_do_not_depend_on_the_batch(classifier: Classifier) -> None:
    images = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8)
    probabilities = predict_probabilities(classifier, images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        predict_probabilities(classifier, images, batch_size=2), probabilities, atol=1e-6
    )


def test_refuses_images_of_another_size_or_type(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match=r"\[N >= 1, 3, 64, 64\] uint8, got \(2, 3, 32, 32\)"):
        predict_probabilities(classifier, torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        predict_probabilities(classifier, torch.zeros(2, 3, 64, 64))


def test_decoded_images_are_the_pixels_of_the_files_in_order(make_set: MakeSet) -> None:
    dataset = make_set("set", num_images=5)
    examples = decode_labelled_images(dataset, attribute_name="label", image_size=32, fit="pad")
    for image, record in zip(examples.images, dataset.records, strict=True):
        expected = fit_square(decode_image(dataset.image_file(record)), 32, policy="pad")
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert examples.labels == ("blue", "green", "red", "blue", "green")


def test_rows_on_disk_follow_the_format(classifier: Classifier, make_set: MakeSet, tmp_path: Path) -> None:
    examples = decode_labelled_images(
        make_set("test", num_images=4), attribute_name="label", image_size=64, fit="center-crop"
    )
    predictions, probabilities = make_predictions(classifier, examples)
    write_predictions(tmp_path / "predictions.jsonl", predictions)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["record_id"] for row in rows] == ["test-0000", "test-0001", "test-0002", "test-0003"]
    for row, expected in zip(rows, probabilities, strict=True):
        assert list(row) == ["record_id", "label", "predicted", "probabilities"]
        assert list(row["probabilities"].values()) == pytest.approx(list(expected), rel=0)
        assert row["predicted"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
