from collections.abc import Callable

import pytest
from medgen_classify import Classifier, ClassifyConfig, recognition, train_classifier, wilson_interval
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

MakeSet = Callable[..., ImageDataset]


@pytest.fixture
def judge(make_set: MakeSet) -> Classifier:
    return train_classifier(make_set("real", num_images=120), ClassifyConfig(epochs=12), seed=0)


def test_a_faithful_generator_is_recognised(judge: Classifier, make_set: MakeSet) -> None:
    result = recognition(judge, make_set("synthetic", num_images=60, seed=1, generated=True))
    assert result.share.value >= 0.95
    assert result.chance == pytest.approx(1 / 3)
    assert result.judge == "real"


def test_a_generator_that_always_draws_red_is_found_out(judge: Classifier, make_set: MakeSet) -> None:
    synthetic = make_set(
        "synthetic", num_images=60, seed=1, generated=True, shown=lambda colour, index: "red"
    )
    result = recognition(judge, synthetic)
    assert result.share.value == pytest.approx(1 / 3, abs=0.04)
    assert result.per_class["red"].value >= 0.95
    assert result.per_class["blue"].value <= 0.05
    assert max(result.taken_for["blue"], key=result.taken_for["blue"].__getitem__) == "red"
    num_right = sum(row.label == row.predicted for row in result.predictions)
    assert result.share.interval == wilson_interval(num_right, 60)


def test_json_counts_every_image_once(judge: Classifier, make_set: MakeSet) -> None:
    written = recognition(judge, make_set("synthetic", num_images=10, generated=True)).to_json()
    assert written["num_images"] == 10
    assert sum(sum(counts.values()) for counts in written["taken_for"].values()) == 10


def test_refuses_a_judge_that_learned_from_a_generator(make_set: MakeSet) -> None:
    generated = make_set("synthetic", generated=True)
    classifier = train_classifier(generated, ClassifyConfig(epochs=1), seed=0)
    with pytest.raises(DataError, match="the generator is its own judge"):
        recognition(classifier, generated)
