import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_classify import (
    Classifier,
    ClassifyConfig,
    evaluate_classifier,
    train_classifier,
    wilson_interval,
    write_evaluation,
)
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

MakeSet = Callable[..., ImageDataset]


@pytest.fixture
def classifier(make_set: MakeSet) -> Classifier:
    return train_classifier(make_set("train", num_images=48), ClassifyConfig(epochs=8), seed=0)


def fifth_is_red(colour: str, index: int) -> str:
    """Draw every fifth image red whatever its label: even a good classifier errs."""
    return "red" if index % 5 == 0 else colour


def test_every_figure_agrees_with_its_predictions(classifier: Classifier, make_set: MakeSet) -> None:
    evaluation = evaluate_classifier(
        classifier, make_set("test", num_images=40, seed=1, shown=fifth_is_red), seed=0
    )
    rows = evaluation.predictions
    correct = [row.label == row.predicted for row in rows]
    assert 0.5 < np.mean(correct) < 1  # a perfect classifier would test little here
    assert evaluation.figures["accuracy"].value == pytest.approx(np.mean(correct))
    assert evaluation.figures["accuracy"].interval == wilson_interval(sum(correct), 40)
    recalls = []
    for place, (name, row) in enumerate(zip(evaluation.classes, evaluation.per_class, strict=True)):
        mine = [one for one in rows if one.label == name]
        assert row.support == len(mine) == sum(evaluation.confusion[place])
        recalls.append(np.mean([one.predicted == name for one in mine]))
        assert row.recall.value == pytest.approx(recalls[-1])
    assert evaluation.figures["balanced_accuracy"].value == pytest.approx(np.mean(recalls))


def test_every_interval_holds_its_value(classifier: Classifier, make_set: MakeSet) -> None:
    evaluation = evaluate_classifier(
        classifier, make_set("test", num_images=40, seed=1, shown=fifth_is_red), seed=0
    )
    for name, figure in evaluation.figures.items():
        low, high = figure.interval
        assert 0 <= low < figure.value < high <= 1, name


def test_json_holds_what_the_format_promises(
    classifier: Classifier, make_set: MakeSet, tmp_path: Path
) -> None:
    evaluation = evaluate_classifier(classifier, make_set("test", seed=1), seed=3, num_resamples=50)
    write_evaluation(evaluation, tmp_path / "classify")
    written = json.loads((tmp_path / "classify/classification.json").read_text())
    assert written == evaluation.to_json()
    for name in ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy", "auc"):
        assert set(written[name]) == {"value", "interval", "method"}
    assert np.sum(written["confusion_matrix"]) == written["num_test_images"] == 24
    assert [row["class"] for row in written["per_class"]] == written["classes"] == ["blue", "green", "red"]
    assert written["training"]["name"] == "train"
    assert len((tmp_path / "classify/predictions.jsonl").read_text().splitlines()) == 24


def test_same_seed_same_intervals(classifier: Classifier, make_set: MakeSet) -> None:
    test_set = make_set("test", seed=1, shown=fifth_is_red)
    one, again, other = (
        evaluate_classifier(classifier, test_set, seed=seed, num_resamples=200) for seed in (0, 0, 1)
    )
    assert one.to_json() == again.to_json()
    assert one.figures["auc"].value == other.figures["auc"].value
    assert not np.array_equal(one.replicates["auc"], other.replicates["auc"])


def test_groups_widen_the_interval_and_take_wilson_away(make_set: MakeSet, classifier: Classifier) -> None:
    # The red ones are all of three of the twelve groups: right and wrong come in bunches.
    def bunched(colour: str, index: int) -> str:
        return "red" if index // 15 == 3 else colour

    plain_set = make_set("plain", num_images=60, seed=2, shown=bunched)
    grouped_set = make_set(
        "grouped", num_images=60, seed=2, shown=bunched, group=lambda index: f"{index % 3}-{index // 15}"
    )
    plain = evaluate_classifier(classifier, plain_set, seed=0)
    grouped = evaluate_classifier(classifier, grouped_set, seed=0)
    assert plain.figures["accuracy"].value == grouped.figures["accuracy"].value
    assert grouped.replicates["accuracy"].std() > 1.5 * plain.replicates["accuracy"].std()
    assert (plain.figures["accuracy"].method, grouped.figures["accuracy"].method) == ("wilson", "bootstrap")
    assert {row.recall.method for row in grouped.per_class} == {"bootstrap"}


def test_a_class_without_test_images_is_a_warning_not_a_zero(
    classifier: Classifier, make_set: MakeSet
) -> None:
    evaluation = evaluate_classifier(classifier, make_set("test", colours=("blue", "red"), seed=1), seed=0)
    green = evaluation.per_class[1]
    assert (green.support, green.auc, green.recall.interval) == (0, None, (0.0, 1.0))
    assert any("no test image of green" in warning for warning in evaluation.warnings)
    seen = [row.recall.value for row in evaluation.per_class if row.support]
    assert evaluation.figures["balanced_accuracy"].value == pytest.approx(np.mean(seen))


def test_a_perfect_score_warns_that_its_bootstrap_is_blind(make_set: MakeSet) -> None:
    train_set = make_set("easy", num_images=9)
    classifier = train_classifier(train_set, ClassifyConfig(epochs=30), seed=0)
    evaluation = evaluate_classifier(classifier, train_set, seed=0, num_resamples=50)
    assert evaluation.figures["weighted_f1"].interval == (1.0, 1.0)
    assert evaluation.figures["accuracy"].interval[0] == pytest.approx(9 / (9 + 3.841458820694124))
    assert any("weighted_f1" in warning for warning in evaluation.warnings)


def test_refuses_a_class_the_classifier_never_saw(make_set: MakeSet) -> None:
    train_set = make_set("train", colours=("blue", "green"))
    classifier = train_classifier(train_set, ClassifyConfig(epochs=1), seed=0)
    with pytest.raises(DataError, match=r"trained on train without the classes \['red'\]"):
        evaluate_classifier(classifier, make_set("test"), seed=0)


def test_refuses_a_test_set_of_one_class_or_one_image(classifier: Classifier, make_set: MakeSet) -> None:
    with pytest.raises(DataError, match="at least two classes, got 24 of 'red' only"):
        evaluate_classifier(classifier, make_set("red", colours=("red",)), seed=0)
    with pytest.raises(DataError, match="at least two classes, got 1 of 'blue' only"):
        evaluate_classifier(classifier, make_set("one", num_images=1), seed=0)


def test_refuses_no_resamples(classifier: Classifier, make_set: MakeSet) -> None:
    with pytest.raises(ValueError, match="num_resamples must be at least 1, got 0"):
        evaluate_classifier(classifier, make_set("test"), seed=0, num_resamples=0)
