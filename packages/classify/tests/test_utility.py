import json
from collections.abc import Callable

import pytest
from medgen_classify import (
    ClassifyConfig,
    compare_training_sets,
    evaluate_classifier,
    paired_differences,
    train_classifier,
)
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

MakeSet = Callable[..., ImageDataset]

CONFIG = ClassifyConfig(epochs=12)


def swapped(colour: str, index: int) -> str:
    """Draw blue for green and green for blue: a generator that confuses two classes."""
    return {"blue": "green", "green": "blue"}.get(colour, colour)


def sometimes_swapped(colour: str, index: int) -> str:
    return swapped(colour, index) if index % 5 == 0 else colour


def test_a_generator_that_confuses_classes_is_worth_less_than_real_images(make_set: MakeSet) -> None:
    real, test_set = make_set("real", num_images=120), make_set("test", num_images=60, seed=1)
    synthetic = make_set("synthetic", num_images=120, seed=2, generated=True, shown=swapped)
    table = compare_training_sets(
        {"real": real, "synthetic": synthetic}, test_set, CONFIG, baseline="real", seed=0, num_resamples=200
    )
    assert table.rows["real"].figures["accuracy"].value >= 0.95
    difference = table.differences["synthetic"]["accuracy"]
    assert difference.value == pytest.approx(
        table.rows["synthetic"].figures["accuracy"].value - table.rows["real"].figures["accuracy"].value
    )
    assert difference.interval[0] <= difference.value <= difference.interval[1] < -0.4
    written = json.loads(json.dumps(table.to_json()))
    assert list(written["rows"]) == ["real", "synthetic"]
    assert list(written["differences"]) == ["synthetic"]


def test_the_same_training_set_twice_differs_by_exactly_nothing(make_set: MakeSet) -> None:
    real, test_set = make_set("real"), make_set("test", seed=1)
    table = compare_training_sets(
        {"real": real, "again": real}, test_set, ClassifyConfig(epochs=1), baseline="real", seed=0
    )
    for figure in table.differences["again"].values():
        assert (figure.value, figure.interval) == (0.0, (0.0, 0.0))


def test_exchanging_the_two_turns_the_sign_of_every_difference(make_set: MakeSet) -> None:
    real, test_set = make_set("real"), make_set("test", num_images=60, seed=1, shown=sometimes_swapped)
    one, other = (
        evaluate_classifier(
            train_classifier(real, ClassifyConfig(epochs=1, learning_rate=2e-4), seed=seed), test_set, seed=0
        )
        for seed in (0, 1)
    )
    forward, backward = paired_differences(one, other), paired_differences(other, one)
    assert forward["auc"].value != 0
    for name, figure in forward.items():
        low, high = backward[name].interval
        assert figure.value == -backward[name].value
        assert figure.interval == pytest.approx((-high, -low))


def test_pairs_need_the_same_resamples(make_set: MakeSet) -> None:
    real, test_set = make_set("real"), make_set("test", seed=1)
    classifier = train_classifier(real, ClassifyConfig(epochs=1), seed=0)
    one, other = (evaluate_classifier(classifier, test_set, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match="seed 0, 1000 resamples against 24 images, seed 1"):
        paired_differences(one, other)


def test_progress_names_the_training_set(make_set: MakeSet) -> None:
    seen: list[str] = []
    sets = {"real": make_set("real"), "synthetic": make_set("synthetic", generated=True)}
    compare_training_sets(
        sets,
        make_set("test", seed=1),
        ClassifyConfig(epochs=1, batch_size=12),
        baseline="real",
        seed=0,
        num_resamples=10,
        on_progress=lambda name, step, num_steps: seen.append(f"{name} {step}/{num_steps}"),
    )
    assert seen == ["real 1/2", "real 2/2", "synthetic 1/2", "synthetic 2/2"]


def test_refuses_a_training_set_without_a_class_of_the_test(make_set: MakeSet) -> None:
    sets = {"real": make_set("real"), "synthetic": make_set("synthetic", colours=("blue", "red"))}
    with pytest.raises(DataError, match=r"training set 'synthetic' .* no image of the classes \['green'\]"):
        compare_training_sets(sets, make_set("test"), CONFIG, baseline="real", seed=0)


def test_refuses_to_train_and_test_on_one_patient(make_set: MakeSet) -> None:
    whole = make_set(
        "whole",
        split=lambda index: "test" if index >= 12 else "train",
        group=lambda index: "patient-7" if index in (11, 12) else None,
    )
    sets = {"real": whole.select(split="train"), "synthetic": make_set("synthetic", generated=True)}
    with pytest.raises(DataError, match=r"shares 1 images with the test set.*whole-0011"):
        compare_training_sets(sets, whole.select(split="test"), CONFIG, baseline="real", seed=0)


def test_refuses_a_baseline_that_is_not_there(make_set: MakeSet) -> None:
    with pytest.raises(ValueError, match=r"one of them the baseline 'real'; got \['synthetic'\]"):
        compare_training_sets(
            {"synthetic": make_set("synthetic")}, make_set("test"), CONFIG, baseline="real", seed=0
        )
