"""Classification: what a classifier says about the synthetic images, and what it learns from them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen_data.atomic import write_json_atomic
from medgen_data.image_folder import ImageDataset

if TYPE_CHECKING:
    from medgen_classify import Classifier, ClassifyConfig, Evaluation

    from medgen_cli.recipes import ClassifySettings

LABEL = "label"

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Judge:
    """Trains and tests classifiers, and writes what each of them said."""

    settings: "ClassifySettings"
    out_dir: Path
    seed: int
    device: str
    on_step: OnStep | None = None

    def train(self, attribute: str, images: ImageDataset, name: str) -> "Classifier":
        """Train a classifier of an attribute; `name` is shown as progress."""
        from medgen_classify import train_classifier

        def on_progress(step: int, num_steps: int) -> None:
            if self.on_step:
                self.on_step(name, step, num_steps)

        config: ClassifyConfig = self.settings.classifier(attribute)
        return train_classifier(images, config, seed=self.seed, device=self.device, on_progress=on_progress)

    def test(self, classifier: "Classifier", images: ImageDataset, folder: str) -> "Evaluation":
        """Test a classifier; figures and predictions go to a folder of their own."""
        from medgen_classify import evaluate_classifier, write_evaluation

        evaluation = evaluate_classifier(classifier, images, seed=self.seed)
        write_evaluation(evaluation, self.out_dir / folder)
        return evaluation


def classify_datasets(
    real: ImageDataset,
    synthetic: ImageDataset,
    settings: "ClassifySettings",
    out_dir: Path,
    *,
    seed: int,
    device: str,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Let classifiers of real images recognise synthetic ones, and compare synthetic with real training.

    Writes `recognition.json` (per attribute: the classifier on real test images and on the synthetic images,
    whose attributes are those their prompts asked for) and `classification.json` (classifiers trained on
    synthetic images only and on real images only, both tested on real images, and the difference).

    Args:
        real: Real images with a train and a test split.
        synthetic: Synthetic images.
        settings: Classifier and comparisons.
        out_dir: Where the files go.
        seed: Seed of weights, order and intervals.
        device: Where to train.
        on_step: Called with the name of the classifier, its steps done and its steps in total.

    Returns:
        The content of both files.

    Raises:
        DataError: If a class is missing on one side, or train and test split share a group.
    """
    from medgen_classify.utility import check_training_set

    judge = Judge(settings, out_dir, seed, device, on_step)
    real_train, real_test = real.select(split="train"), real.select(split="test")
    for attribute in settings.recognise:
        check_training_set("real", real_train, real_test, attribute)
    if settings.compare:
        check_training_set("real", real_train, real_test, LABEL)
        check_training_set("synthetic", synthetic, real_test, LABEL)
    recognised: dict[str, Any] = {}
    real_label: Evaluation | None = None
    for attribute in settings.recognise:
        classifier = judge.train(attribute, real_train, f"{attribute} of real images")
        on_real = judge.test(classifier, real_test, f"{attribute}-real-test")
        on_synthetic = judge.test(classifier, synthetic, f"{attribute}-synthetic")
        recognised[attribute] = {"real_test": on_real.to_json(), "synthetic": on_synthetic.to_json()}
        if attribute == LABEL:
            real_label = on_real
    write_json_atomic(out_dir / "recognition.json", recognised)
    compared: dict[str, Any] = {}
    if settings.compare:
        compared = _compare(judge, real_train, real_test, synthetic, real_label)
        write_json_atomic(out_dir / "classification.json", compared)
    return {"recognition": recognised, "classification": compared}


def _compare(
    judge: Judge,
    real_train: ImageDataset,
    real_test: ImageDataset,
    synthetic: ImageDataset,
    real_only: "Evaluation | None",
) -> dict[str, Any]:
    from medgen_classify import paired_differences

    if real_only is None:
        classifier = judge.train(LABEL, real_train, "label of real images")
        real_only = judge.test(classifier, real_test, f"{LABEL}-real-test")
    classifier = judge.train(LABEL, synthetic, "label of synthetic images")
    synthetic_only = judge.test(classifier, real_test, "synthetic-only")
    differences = paired_differences(synthetic_only, real_only)
    return {
        "real_only": real_only.to_json(),
        "synthetic_only": synthetic_only.to_json(),
        "difference": {name: figure.to_json() for name, figure in differences.items()},
    }
