"""Classification: what a classifier says about the synthetic images, and what it learns from them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen_data.atomic import write_json_atomic, write_jsonl_atomic
from medgen_data.image_folder import ImageDataset

if TYPE_CHECKING:
    from medgen_classify import Classifier, Evaluation

    from medgen_cli.recipes import ClassifySettings

LABEL = "label"


def classify_datasets(
    real: ImageDataset,
    synthetic: ImageDataset,
    settings: "ClassifySettings",
    out_dir: Path,
    *,
    seed: int,
    device: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Let classifiers trained on real images recognise synthetic ones, and compare synthetic with real training.

    Writes `recognition.json` (per attribute: the classifier on real test images and on the synthetic images)
    and `classification.json` (classifiers trained on synthetic images only and on real images only, both
    tested on real images), each with its predictions.

    Args:
        real: Real images with a train and a test split.
        synthetic: Synthetic images, whose attributes are those their prompts asked for.
        settings: Classifier and comparisons.
        out_dir: Where the files go.
        seed: Seed of weights, order and intervals.
        device: Where to train.
        on_progress: Called with (done, total) classifiers.

    Returns:
        The content of both files.
    """
    real_train, real_test = real.select(split="train"), real.select(split="test")
    attributes = list(settings.recognise)
    compare = settings.compare
    total = len(attributes) + (1 if compare else 0) + (1 if compare and LABEL not in attributes else 0)
    done = 0
    trained: dict[str, Classifier] = {}

    def train(attribute: str, images: ImageDataset) -> "Classifier":
        nonlocal done
        classifier = _train(attribute, images, settings, seed=seed, device=device)
        done += 1
        if on_progress:
            on_progress(done, total)
        return classifier

    recognition: dict[str, Any] = {}
    for attribute in attributes:
        trained[attribute] = train(attribute, real_train)
        recognition[attribute] = {
            "real_test": _evaluate(trained[attribute], real_test, out_dir / f"real-{attribute}", seed=seed),
            "synthetic": _evaluate(
                trained[attribute], synthetic, out_dir / f"synthetic-{attribute}", seed=seed
            ),
        }
    write_json_atomic(out_dir / "recognition.json", recognition)
    classification: dict[str, Any] = {}
    if compare:
        real_only = trained.get(LABEL) or train(LABEL, real_train)
        classification["real_only"] = _evaluate(real_only, real_test, out_dir / "real-only", seed=seed)
        synthetic_only = train(LABEL, synthetic)
        classification["synthetic_only"] = _evaluate(
            synthetic_only, real_test, out_dir / "synthetic-only", seed=seed
        )
        write_json_atomic(out_dir / "classification.json", classification)
    return {"recognition": recognition, "classification": classification}


def _train(
    attribute: str, images: ImageDataset, settings: "ClassifySettings", *, seed: int, device: str
) -> "Classifier":
    from medgen_classify import train_classifier

    return train_classifier(images, settings.classifier(attribute), seed=seed, device=device)


def _evaluate(classifier: "Classifier", images: ImageDataset, out_dir: Path, *, seed: int) -> dict[str, Any]:
    from medgen_classify import evaluate_classifier

    evaluation: Evaluation = evaluate_classifier(classifier, images, seed=seed)
    write_jsonl_atomic(out_dir / "predictions.jsonl", evaluation.predictions)
    figures: dict[str, Any] = evaluation.to_json()
    write_json_atomic(out_dir / "classification.json", figures)
    return figures
