"""Test a classifier: every figure with its interval, the confusion matrix, the table of classes.

Shapes: N test images, K classes, R bootstrap resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from medgen_data.atomic import write_json_atomic
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

from medgen_classify import figures
from medgen_classify.classifier import Classifier, TrainingFacts
from medgen_classify.figures import Array, Indices
from medgen_classify.intervals import (
    Figure,
    bootstrap_figure,
    bootstrap_weights,
    independent_units,
    wilson_figure,
)
from medgen_classify.labelled_images import class_indices, decode_labelled_images
from medgen_classify.predict import Prediction, make_predictions, write_predictions

PREDICTIONS_NAME = "predictions.jsonl"
CLASSIFICATION_NAME = "classification.json"

FIGURE_NAMES = ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy", "auc")
_CHUNK = 128  # resamples computed at once: bounds the memory, changes no number


@dataclass(frozen=True)
class ClassFigures:
    """One row of the per-class table; `auc` is None for a class without test images."""

    name: str
    support: int
    precision: Figure
    recall: Figure
    f1: Figure
    auc: Figure | None

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of the row."""
        return {
            "class": self.name,
            "support": self.support,
            "precision": self.precision.to_json(),
            "recall": self.recall.to_json(),
            "f1": self.f1.to_json(),
            "auc": None if self.auc is None else self.auc.to_json(),
        }


@dataclass(frozen=True)
class Evaluation:
    """What a classifier is worth on a test set.

    Attributes:
        attribute: What was recognised.
        classes: In the order of the confusion matrix and of the table.
        figures: `FIGURE_NAMES` to value and interval.
        confusion: Rows are true classes, columns predicted ones.
        per_class: One row per class.
        predictions: One row per test image.
        replicates: Each figure on every bootstrap resample, [R]; for paired comparisons.
        training: What the classifier was trained on.
        test_name: Name of the test set.
        test_fingerprint: Of the data set the test images were chosen from.
        seed: Of the resamples.
        warnings: Reasons to read the intervals with care.
    """

    attribute: str
    classes: tuple[str, ...]
    figures: dict[str, Figure]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[ClassFigures, ...]
    predictions: tuple[Prediction, ...]
    replicates: dict[str, Array]
    training: TrainingFacts
    test_name: str
    test_fingerprint: str
    seed: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the content of `classification.json`."""
        return {
            "attribute": self.attribute,
            "classes": list(self.classes),
            "num_test_images": len(self.predictions),
            **{name: figure.to_json() for name, figure in self.figures.items()},
            "confusion_matrix": [list(row) for row in self.confusion],
            "per_class": [row.to_json() for row in self.per_class],
            "training": self.training.model_dump(mode="json"),
            "test": {"name": self.test_name, "fingerprint": self.test_fingerprint},
            "seed": self.seed,
            "warnings": list(self.warnings),
        }


def evaluate_classifier(
    classifier: Classifier, test_set: ImageDataset, *, seed: int, num_resamples: int = 1000
) -> Evaluation:
    """Test a classifier on every image of a data set; choose a split before with `select`.

    Shares get Wilson intervals, all else a bootstrap over test images, stratified by class. If images
    share a `group_id` they are not independent: then groups are resampled and shares are bootstrapped too.

    Args:
        classifier: Trained classifier.
        test_set: Images with the attribute the classifier was trained for.
        seed: Of the resamples; the figures themselves do not depend on it.
        num_resamples: R.

    Raises:
        DataError: If there are no images, fewer than two classes, or a class the classifier never saw.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    examples = decode_labelled_images(
        test_set,
        attribute_name=classifier.config.attribute,
        image_size=classifier.backbone.image_size,
        fit=classifier.config.fit,
    )
    if len(set(examples.labels)) < 2:
        raise DataError(
            f"{test_set.root}: expected test images of at least two classes, got {len(examples.labels)} of "
            f"{examples.labels[0]!r} only; balanced accuracy and AUC compare classes"
        )
    predictions, probabilities = make_predictions(classifier, examples)
    labels = class_indices(examples.labels, classifier.classes).numpy()
    units = independent_units(examples.group_ids)
    weights = bootstrap_weights(labels, units, num_resamples=num_resamples, seed=seed)

    grouped = len(np.unique(units)) < len(units)
    plain = _all_figures(labels, probabilities, np.ones((1, len(labels))))
    resampled = _all_figures(labels, probabilities, weights)
    confusion = plain["confusion"][0].astype(int)
    per_class = [
        _class_row(index, name, confusion, plain, resampled, grouped=grouped)
        for index, name in enumerate(classifier.classes)
    ]
    summary = {name: bootstrap_figure(plain[name][0], resampled[name]) for name in FIGURE_NAMES}
    if not grouped:
        summary["accuracy"] = wilson_figure(np.trace(confusion), len(labels))
    return Evaluation(
        attribute=classifier.config.attribute,
        classes=classifier.classes,
        figures=summary,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        per_class=tuple(per_class),
        predictions=predictions,
        replicates={name: resampled[name] for name in FIGURE_NAMES},
        training=classifier.training,
        test_name=test_set.card.name,
        test_fingerprint=test_set.card.fingerprint,
        seed=seed,
        warnings=_warnings(classifier.classes, labels, units, summary),
    )


def write_evaluation(evaluation: Evaluation, classify_dir: Path) -> None:
    """Write `predictions.jsonl`, then `classification.json`, into a folder."""
    write_predictions(classify_dir / PREDICTIONS_NAME, evaluation.predictions)
    write_json_atomic(classify_dir / CLASSIFICATION_NAME, evaluation.to_json())


def _all_figures(labels: Indices, probabilities: Array, weights: Array) -> dict[str, Array]:
    """Compute every figure for every weighting, [R, N] -> [R], [R, K] or [R, K, K]."""
    predicted = probabilities.argmax(axis=1)
    chunks: list[dict[str, Array]] = []
    for start in range(0, len(weights), _CHUNK):
        chunk = weights[start : start + _CHUNK]
        confusion = figures.confusion_matrix(labels, predicted, probabilities.shape[1], chunk)
        areas = figures.auc_one_vs_rest(labels, probabilities, chunk)
        chunks.append(
            {
                "confusion": confusion,
                "accuracy": figures.accuracy(confusion),
                "weighted_f1": figures.weighted_f1(confusion),
                "macro_f1": figures.macro_f1(confusion),
                "balanced_accuracy": figures.balanced_accuracy(confusion),
                "auc": figures.macro_auc(areas),
                "class_precision": figures.precision(confusion),
                "class_recall": figures.recall(confusion),
                "class_f1": figures.f1(confusion),
                "class_auc": areas,
            }
        )
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _class_row(
    index: int,
    name: str,
    confusion: Indices,
    plain: dict[str, Array],
    resampled: dict[str, Array],
    *,
    grouped: bool,
) -> ClassFigures:
    def bootstrapped(figure: str) -> Figure:
        return bootstrap_figure(plain[figure][0, index], resampled[figure][:, index])

    correct, num_predicted = confusion[index, index], confusion[:, index].sum()
    support = int(confusion[index].sum())
    return ClassFigures(
        name=name,
        support=support,
        precision=bootstrapped("class_precision") if grouped else wilson_figure(correct, num_predicted),
        recall=bootstrapped("class_recall") if grouped else wilson_figure(correct, support),
        f1=bootstrapped("class_f1"),
        auc=bootstrapped("class_auc") if support else None,
    )


def _warnings(
    classes: Sequence[str], labels: Indices, units: Indices, summary: dict[str, Figure]
) -> tuple[str, ...]:
    warnings = []
    num_units = {name: len(np.unique(units[labels == index])) for index, name in enumerate(classes)}
    absent = [name for name, count in num_units.items() if count == 0]
    single = [name for name, count in num_units.items() if count == 1]
    if absent:
        warnings.append(f"no test image of {', '.join(absent)}: means over classes leave them out")
    if single:
        warnings.append(f"one independent test image of {', '.join(single)}: intervals ignore their chance")
    stuck = [name for name, figure in summary.items() if figure.interval[0] == figure.interval[1]]
    if stuck:
        warnings.append(
            f"every resample gives the same {', '.join(stuck)}: read the interval of accuracy instead"
        )
    return tuple(warnings)
