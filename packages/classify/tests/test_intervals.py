import numpy as np
import pytest
from medgen_classify import figures
from medgen_classify.intervals import (
    bootstrap_figure,
    bootstrap_weights,
    independent_units,
    wilson_figure,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        # The ends are roots of (p - s)^2 = z^2 p (1 - p) / n; at 0 of n the upper one is z^2 / (n + z^2).
        (0, 10, (0.0, 3.841458820694124 / 13.841458820694124)),
        (10, 10, (10 / 13.841458820694124, 1.0)),
        (81, 263, (0.255289, 0.366210)),  # Newcombe 1998, table I: 0.2553, 0.3662
    ],
)
def test_wilson_interval_closed_forms(successes: int, trials: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-4)


def test_wilson_ends_solve_the_score_equation() -> None:
    share, trials = 17 / 23, 23
    for end in wilson_interval(17, trials):
        assert (end - share) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / trials)


def test_wilson_interval_without_trials_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_figure(0, 0).value == 0.0


def test_wilson_interval_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson_interval(3, 2)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_wilson_interval_covers_the_truth_about_95_times_in_100(share: float) -> None:
    draws = np.random.default_rng(0).binomial(60, share, 2000)
    covered = [low <= share <= high for low, high in (wilson_interval(int(count), 60) for count in draws)]
    assert 0.92 <= np.mean(covered) <= 0.985


def test_bootstrap_interval_of_balanced_accuracy_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    recalls, labels = np.array([0.9, 0.6, 0.75]), np.repeat([0, 1, 2], [80, 40, 60])
    covered = []
    for trial in range(200):
        correct = rng.random(len(labels)) < recalls[labels]
        predicted = np.where(correct, labels, (labels + 1) % 3)
        weights = bootstrap_weights(labels, np.arange(len(labels)), num_resamples=300, seed=trial)
        replicates = figures.balanced_accuracy(figures.confusion_matrix(labels, predicted, 3, weights))
        low, high = bootstrap_figure(0.0, replicates).interval
        covered.append(low <= recalls.mean() <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_bootstrap_standard_error_is_the_closed_form() -> None:
    labels = np.zeros(200, dtype=np.int64)
    correct = np.arange(200) < 140
    weights = bootstrap_weights(labels, np.arange(200), num_resamples=4000, seed=0)
    shares = weights @ correct / 200
    assert shares.mean() == pytest.approx(0.7, abs=0.003)
    assert shares.std() == pytest.approx((0.7 * 0.3 / 200) ** 0.5, rel=0.05)


def test_every_resample_keeps_the_size_of_every_class() -> None:
    labels = np.array([0] * 7 + [1] * 3 + [2])
    weights = bootstrap_weights(labels, np.arange(11), num_resamples=50, seed=0)
    for label, count in enumerate([7, 3, 1]):
        np.testing.assert_array_equal(weights[:, labels == label].sum(axis=1), count)


def test_images_of_one_group_are_drawn_together() -> None:
    units = independent_units(["a", None, "a", "b", None, "b", "b"])
    np.testing.assert_array_equal(units, [0, 1, 0, 2, 3, 2, 2])
    weights = bootstrap_weights(np.array([0, 0, 0, 1, 1, 1, 1]), units, num_resamples=40, seed=0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 5])
    np.testing.assert_array_equal(weights[:, [0, 1]].sum(axis=1), 2)  # two units of class 0, drawn twice


def test_repeating_each_image_in_its_group_does_not_narrow_the_interval() -> None:
    labels = np.zeros(60, dtype=np.int64)
    correct = np.arange(60) % 3 > 0
    plain = bootstrap_weights(labels, np.arange(60), num_resamples=2000, seed=0) @ correct / 60
    four = np.repeat(np.arange(60), 4)
    grouped = bootstrap_weights(labels[four], four, num_resamples=2000, seed=0) @ correct[four] / 240
    np.testing.assert_allclose(plain, grouped)


def test_an_image_named_like_a_group_is_not_of_the_group() -> None:
    np.testing.assert_array_equal(independent_units([None, "0", None]), [0, 1, 2])


def test_same_seed_same_resamples() -> None:
    labels = np.array([0, 1] * 10)
    one, again, other = (
        bootstrap_weights(labels, np.arange(20), num_resamples=5, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
