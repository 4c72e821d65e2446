"""What a training set is worth: the same classifier trained on each, all tested on the same real images.

Med-Art (table 4) trains on synthetic images alone and tests on real ones; the real training set beside it
is the bar. Shapes: R bootstrap resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError, list_briefly

from medgen_classify.config import ClassifyConfig
from medgen_classify.evaluation import FIGURE_NAMES, Evaluation, evaluate_classifier
from medgen_classify.intervals import Figure, bootstrap_figure
from medgen_classify.labelled_images import is_generated, labels_of
from medgen_classify.train import train_classifier


@dataclass(frozen=True)
class UtilityTable:
    """Classifiers side by side.

    Attributes:
        baseline: Name of the row that all others are compared with.
        rows: Name of each training set to the evaluation of its classifier, in the order given.
        differences: For every other row: figure name to (row - baseline), with a paired interval.
    """

    baseline: str
    rows: dict[str, Evaluation]
    differences: dict[str, dict[str, Figure]]

    def to_json(self) -> dict[str, object]:
        """Return the table as a JSON object."""
        return {
            "baseline": self.baseline,
            "rows": {name: evaluation.to_json() for name, evaluation in self.rows.items()},
            "differences": {
                name: {figure: value.to_json() for figure, value in row.items()}
                for name, row in self.differences.items()
            },
        }


def compare_training_sets(
    training_sets: Mapping[str, ImageDataset],
    test_set: ImageDataset,
    config: ClassifyConfig,
    *,
    baseline: str,
    seed: int,
    device: str = "cpu",
    num_resamples: int = 1000,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> UtilityTable:
    """Train the same classifier on each training set and compare them on one test set.

    The intervals cover the choice of test images, not that of the training seed.

    Args:
        training_sets: E.g. `{"real": ..., "synthetic": ...}`.
        test_set: Real images that none of the training sets holds.
        config: The classifier, the same for all.
        baseline: Key of the training set to compare with, e.g. `real`.
        seed: Of every training run and of the resamples.
        device: Where to train.
        num_resamples: R.
        on_progress: Called with the name of the training set, the steps done and the steps in total.

    Raises:
        DataError: If a training set lacks a class of the test set or shares images or groups with it.
        ValueError: If `baseline` is not one of the training sets, or there is nothing to compare.
    """
    if baseline not in training_sets or len(training_sets) < 2:
        raise ValueError(
            f"need at least two training sets, one of them the baseline {baseline!r}; got {list(training_sets)}"
        )
    for name, train_set in training_sets.items():
        check_training_set(name, train_set, test_set, config.attribute)

    rows = {}
    for name, train_set in training_sets.items():

        def report(step: int, num_steps: int, name: str = name) -> None:
            if on_progress is not None:
                on_progress(name, step, num_steps)

        classifier = train_classifier(train_set, config, seed=seed, device=device, on_progress=report)
        rows[name] = evaluate_classifier(classifier, test_set, seed=seed, num_resamples=num_resamples)
    differences = {
        name: paired_differences(evaluation, rows[baseline])
        for name, evaluation in rows.items()
        if name != baseline
    }
    return UtilityTable(baseline, rows, differences)


def paired_differences(evaluation: Evaluation, baseline: Evaluation) -> dict[str, Figure]:
    """Return (evaluation - baseline) of every figure, with the interval over common resamples.

    Raises:
        ValueError: If the two were not tested on the same images with the same resamples.
    """
    ours, theirs = (
        (
            [row.record_id for row in one.predictions],
            one.test_fingerprint,
            one.seed,
            len(one.replicates["auc"]),
        )
        for one in (evaluation, baseline)
    )
    if ours != theirs:
        raise ValueError(
            "a paired comparison needs the same test images in the same order, the same seed and number of "
            f"resamples; got {len(ours[0])} images, seed {ours[2]}, {ours[3]} resamples against "
            f"{len(theirs[0])} images, seed {theirs[2]}, {theirs[3]} resamples"
        )
    return {
        name: bootstrap_figure(
            evaluation.figures[name].value - baseline.figures[name].value,
            evaluation.replicates[name] - baseline.replicates[name],
        )
        for name in FIGURE_NAMES
    }


def check_training_set(name: str, train_set: ImageDataset, test_set: ImageDataset, attribute: str) -> None:
    """Refuse a training set that cannot be tested fairly, before hours are spent on it.

    Raises:
        DataError: If it lacks a class of the test set, or shares images, patients or lesions with it.
    """
    missing = sorted(set(labels_of(test_set, attribute)) - set(labels_of(train_set, attribute)))
    if missing:
        raise DataError(
            f"training set {name!r} ({train_set.root}) has no image of the classes {missing} that the test "
            "set holds; add such images or leave the classes out of the test"
        )
    if is_generated(train_set):
        return
    same_source = (
        train_set.root.resolve() == test_set.root.resolve() or train_set.card.name == test_set.card.name
    )
    if not same_source:  # ids of different sources may be equal by chance
        return
    test_ids = {record.record_id for record in test_set.records}
    test_groups = {record.group_id for record in test_set.records if record.group_id is not None}
    shared = [
        record.record_id
        for record in train_set.records
        if record.record_id in test_ids or record.group_id in test_groups
    ]
    if shared:
        raise DataError(
            f"training set {name!r} ({train_set.root}) shares {len(shared)} images with the test set, by id "
            f"or by group: {list_briefly(shared)}; split the data set by group first"
        )
