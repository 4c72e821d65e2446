from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from medgen_classify import Classifier, ClassifyConfig, evaluate_classifier, train_classifier
from medgen_classify.train import augment, learning_rate_factor
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

MakeSet = Callable[..., ImageDataset]


def weights_of(classifier: Classifier) -> list[torch.Tensor]:
    return list(classifier.backbone.network.state_dict().values())


def test_a_handful_of_images_is_learned_by_heart(make_set: MakeSet) -> None:
    handful = make_set("handful", num_images=9)
    classifier = train_classifier(handful, ClassifyConfig(epochs=30), seed=0)
    assert evaluate_classifier(classifier, handful, seed=0, num_resamples=10).figures["accuracy"].value == 1.0
    assert classifier.training.epoch_losses[-1] < 0.1 < classifier.training.epoch_losses[0]


@pytest.mark.parametrize(("attribute", "num_classes"), [("label", 3), ("facts.quadrant", 4)])
def test_colour_and_place_are_recognised_on_new_images(
    make_set: MakeSet, attribute: str, num_classes: int
) -> None:
    train_set, test_set = make_set("train", num_images=240), make_set("test", num_images=120, seed=1)
    classifier = train_classifier(train_set, ClassifyConfig(attribute=attribute, epochs=12), seed=0)
    evaluation = evaluate_classifier(classifier, test_set, seed=0, num_resamples=10)
    assert len(classifier.classes) == num_classes
    assert evaluation.figures["accuracy"].value >= 0.95


def test_same_seed_same_weights_bit_for_bit_another_seed_others(make_set: MakeSet) -> None:
    train_set, config = make_set("train"), ClassifyConfig(epochs=2, batch_size=8)
    one, again, other = (train_classifier(train_set, config, seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, weights_of(one), weights_of(again)))
    assert not all(map(torch.equal, weights_of(one), weights_of(other)))


def test_training_leaves_the_global_generator_alone(make_set: MakeSet) -> None:
    train_set, config = make_set("train"), ClassifyConfig(epochs=1)
    state = torch.get_rng_state()
    first = train_classifier(train_set, config, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)  # neither does it matter what was drawn before
    assert all(map(torch.equal, weights_of(first), weights_of(train_classifier(train_set, config, seed=0))))


def test_progress_counts_every_step(make_set: MakeSet) -> None:
    seen: list[tuple[int, int]] = []
    train_classifier(
        make_set("train", num_images=10),
        ClassifyConfig(epochs=2, batch_size=4),
        seed=0,
        on_progress=lambda step, num_steps: seen.append((step, num_steps)),
    )
    assert seen == [(step, 6) for step in range(1, 7)]


def test_classifier_remembers_what_it_was_trained_on(make_set: MakeSet) -> None:
    train_set = make_set("train", num_images=7, generated=True)
    facts = train_classifier(train_set, ClassifyConfig(epochs=1), seed=9).training
    assert facts.num_images == {"blue": 3, "green": 2, "red": 2}
    assert (facts.generated, facts.seed, facts.fingerprint) == (True, 9, train_set.card.fingerprint)


def test_constant_schedule_and_the_shape_of_the_cosine() -> None:
    assert {learning_rate_factor(step, 50, "constant") for step in range(50)} == {1.0}
    factors = [learning_rate_factor(step, 50, "warmup-cosine") for step in range(50)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later < earlier for earlier, later in pairwise(factors[5:]))
    assert learning_rate_factor(0, 1, "warmup-cosine") == 1.0


def test_without_jitter_an_image_is_unchanged() -> None:
    config = ClassifyConfig(brightness_jitter=0.0, contrast_jitter=0.0)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(augment(images, config, torch.Generator().manual_seed(1)), images)


def test_jitter_stays_in_range_differs_per_image_and_never_moves_a_pixel() -> None:
    config = ClassifyConfig(brightness_jitter=0.4, contrast_jitter=0.4)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    varied = augment(image.expand(6, -1, -1, -1), config, torch.Generator().manual_seed(1))
    assert 0 <= varied.min() <= varied.max() <= 1
    assert len({round(float(one.mean()), 6) for one in varied}) == 6
    order = image.flatten().argsort()
    assert all((one.flatten()[order].diff() >= -1e-6).all() for one in varied)


def test_flips_mirror_about_half_of_the_images() -> None:
    config = ClassifyConfig(brightness_jitter=0.0, contrast_jitter=0.0, flips=True)
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).expand(400, -1, -1, -1)
    varied = augment(image, config, torch.Generator().manual_seed(1))
    mirrored = (varied - image.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 160 < int(mirrored.sum()) < 240
    torch.testing.assert_close(varied[~mirrored], image[~mirrored])


def test_refuses_a_single_class(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match="at least two classes of label to tell apart, got only 'red'"):
        train_classifier(make_set("train", colours=("red",)), ClassifyConfig(), seed=0)


def test_refuses_a_single_image(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match="at least two classes"):
        train_classifier(make_set("train", num_images=1), ClassifyConfig(), seed=0)


def test_refuses_a_fact_that_the_records_lack(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match=r"train-0000.*facts\.stage.*facts\.quadrant"):
        train_classifier(make_set("train"), ClassifyConfig(attribute="facts.stage"), seed=0)


def test_refuses_to_train_on_the_test_split(make_set: MakeSet) -> None:
    train_set = make_set("train", split=lambda index: "test" if index % 4 == 0 else "train")
    with pytest.raises(DataError, match="6 of 24 training images belong to the test split"):
        train_classifier(train_set, ClassifyConfig(), seed=0)


def test_a_loss_that_explodes_says_what_to_lower(make_set: MakeSet) -> None:
    config = ClassifyConfig(learning_rate=1e30, schedule="constant", epochs=3)
    with pytest.raises(ValueError, match="lower learning_rate"):
        train_classifier(make_set("train"), config, seed=0)
