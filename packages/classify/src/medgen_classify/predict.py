"""Class probabilities of images, and the rows of `predictions.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from medgen_data.atomic import write_jsonl_atomic
from medgen_data.problems import DataError
from torch import Tensor

from medgen_classify.classifier import Classifier
from medgen_classify.labelled_images import LabelledImages

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one image."""

    record_id: str
    label: str
    predicted: str
    probabilities: dict[str, float]

    def to_row(self) -> dict[str, object]:
        """Return the JSON object of the prediction."""
        return {
            "record_id": self.record_id,
            "label": self.label,
            "predicted": self.predicted,
            "probabilities": self.probabilities,
        }


@torch.inference_mode()
def predict_probabilities(classifier: Classifier, images: Tensor, *, batch_size: int = 64) -> Probabilities:
    """Return the softmax probability of every class.

    Args:
        classifier: Trained classifier.
        images: [N, 3, S, S] uint8, S being `classifier.backbone.image_size`.
        batch_size: Images per pass; it changes no result beyond rounding.

    Returns:
        [N, K] float64, each row sums to one.

    Raises:
        ValueError: If `images` has another shape or type.
    """
    side = classifier.backbone.image_size
    if images.shape[1:] != (3, side, side) or images.dtype != torch.uint8 or not len(images):
        raise ValueError(
            f"images must be [N >= 1, 3, {side}, {side}] uint8, got {tuple(images.shape)} {images.dtype}"
        )
    parts = [
        classifier.backbone.logits(batch.to(classifier.device).float() / 255).double().softmax(dim=1).cpu()
        for batch in images.split(batch_size)
    ]
    return torch.cat(parts).numpy()


def make_predictions(
    classifier: Classifier, examples: LabelledImages
) -> tuple[tuple[Prediction, ...], Probabilities]:
    """Predict every image; return the rows, and the probabilities [N, K] in the same order.

    Raises:
        DataError: If an image has a label that the classifier never saw.
    """
    unseen = sorted(set(examples.labels) - set(classifier.classes))
    if unseen:
        raise DataError(
            f"the classifier was trained on {classifier.training.name} without the classes {unseen}; it "
            f"knows {list(classifier.classes)}: add training images of them or leave them out of the test"
        )
    probabilities = predict_probabilities(classifier, examples.images)
    predictions = tuple(
        Prediction(
            record_id,
            label,
            predicted=classifier.classes[int(row.argmax())],
            probabilities=dict(zip(classifier.classes, map(float, row), strict=True)),
        )
        for record_id, label, row in zip(examples.record_ids, examples.labels, probabilities, strict=True)
    )
    return predictions, probabilities


def write_predictions(predictions_file: Path, predictions: Sequence[Prediction]) -> None:
    """Write `predictions.jsonl`, one row per image."""
    write_jsonl_atomic(predictions_file, (prediction.to_row() for prediction in predictions))
