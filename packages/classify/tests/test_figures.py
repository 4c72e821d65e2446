import numpy as np
import pytest
from medgen_classify import figures

# Hand-computed: rows are true, columns predicted.
CONFUSION = np.array([[5.0, 1.0, 0.0], [2.0, 3.0, 1.0], [0.0, 0.0, 8.0]])


def expand(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one (true, predicted) pair per counted image."""
    cells = [
        (i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) for _ in range(int(count))
    ]
    labels, predicted = np.array(cells).T
    return labels, predicted


def brute_force_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in the right order, by looking at each pair."""
    pairs = [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        for ours in scores[positive]
        for theirs in scores[~positive]
    ]
    return float(np.mean(pairs))


def test_confusion_matrix_counts_every_pair_once() -> None:
    labels, predicted = expand(CONFUSION)
    np.testing.assert_array_equal(
        figures.confusion_matrix(labels, predicted, 3, np.ones(len(labels))), CONFUSION
    )


def test_integer_weights_are_the_same_as_repeated_images() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 30), rng.integers(0, 4, 30)
    probabilities = rng.dirichlet(np.ones(4), 30)
    counts = rng.integers(0, 4, 30)
    repeated = np.repeat(np.arange(30), counts)
    ones = np.ones(len(repeated))
    np.testing.assert_array_equal(
        figures.confusion_matrix(labels, predicted, 4, counts.astype(float)),
        figures.confusion_matrix(labels[repeated], predicted[repeated], 4, ones),
    )
    np.testing.assert_allclose(
        figures.auc_one_vs_rest(labels, probabilities, counts.astype(float)),
        figures.auc_one_vs_rest(labels[repeated], probabilities[repeated], ones),
    )


def test_figures_agree_with_hand_computation() -> None:
    f1 = np.array([10 / 13, 6 / 10, 16 / 17])
    assert figures.accuracy(CONFUSION) == pytest.approx(16 / 20)
    np.testing.assert_allclose(figures.precision(CONFUSION), [5 / 7, 3 / 4, 8 / 9])
    np.testing.assert_allclose(figures.recall(CONFUSION), [5 / 6, 3 / 6, 1.0])
    np.testing.assert_allclose(figures.f1(CONFUSION), f1)
    assert figures.weighted_f1(CONFUSION) == pytest.approx((6 * f1[0] + 6 * f1[1] + 8 * f1[2]) / 20)
    assert figures.macro_f1(CONFUSION) == pytest.approx(f1.mean())
    assert figures.balanced_accuracy(CONFUSION) == pytest.approx((5 / 6 + 3 / 6 + 1) / 3)


def test_with_equal_class_sizes_balanced_accuracy_is_accuracy() -> None:
    confusion = np.array([[7.0, 3.0], [4.0, 6.0]])
    assert figures.balanced_accuracy(confusion) == pytest.approx(figures.accuracy(confusion))


def test_always_the_largest_class_shows_why_accuracy_misleads() -> None:
    confusion = np.array([[90.0, 0.0], [10.0, 0.0]])
    assert figures.accuracy(confusion) == pytest.approx(0.9)
    assert figures.balanced_accuracy(confusion) == pytest.approx(0.5)
    assert figures.weighted_f1(confusion) == pytest.approx(0.9 * 180 / 190)


def test_a_class_that_never_occurs_changes_no_mean() -> None:
    padded = np.zeros((4, 4))
    padded[:3, :3] = CONFUSION
    for figure in (figures.macro_f1, figures.weighted_f1, figures.balanced_accuracy, figures.accuracy):
        assert figure(padded) == pytest.approx(float(figure(CONFUSION)))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], 1.0),
        ([0.9, 0.8, 0.2, 0.1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], 0.5),
        ([0.1, 0.5, 0.5, 0.9], 0.875),  # one of four pairs is a tie
    ],
)
def test_auc_closed_forms(scores: list[float], expected: float) -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.stack([1 - np.array(scores), np.array(scores)], axis=1)
    areas = figures.auc_one_vs_rest(labels, probabilities, np.ones(4))
    np.testing.assert_allclose(areas, [expected, expected])


def test_auc_equals_counting_all_pairs_also_with_ties() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 60)
    probabilities = np.round(rng.dirichlet(np.ones(3), 60), 1)  # many ties
    areas = figures.auc_one_vs_rest(labels, probabilities, np.ones(60))
    expected = [brute_force_auc(labels == index, probabilities[:, index]) for index in range(3)]
    np.testing.assert_allclose(areas, expected)
    assert figures.macro_auc(areas) == pytest.approx(np.mean(expected))


def test_auc_of_an_absent_class_is_undefined_and_left_out_of_the_mean() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]])
    areas = figures.auc_one_vs_rest(labels, probabilities, np.ones(4))
    assert np.isnan(areas[2])
    assert figures.macro_auc(areas) == pytest.approx((areas[0] + areas[1]) / 2)


def test_many_weightings_at_once_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(2)
    labels, probabilities = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
    weights = rng.integers(0, 3, (5, 40)).astype(float)
    together = figures.auc_one_vs_rest(labels, probabilities, weights)
    for one, row in zip(weights, together, strict=True):
        np.testing.assert_allclose(figures.auc_one_vs_rest(labels, probabilities, one), row)


def test_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    labels, probabilities = rng.integers(0, 5, 200), rng.dirichlet(np.ones(5), 200)
    predicted = probabilities.argmax(axis=1)
    confusion = figures.confusion_matrix(labels, predicted, 5, np.ones(200))
    assert figures.weighted_f1(confusion) == pytest.approx(
        metrics.f1_score(labels, predicted, average="weighted")
    )
    assert figures.macro_f1(confusion) == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert figures.balanced_accuracy(confusion) == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    areas = figures.auc_one_vs_rest(labels, probabilities, np.ones(200))
    assert figures.macro_auc(areas) == pytest.approx(
        metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
