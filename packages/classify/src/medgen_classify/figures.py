"""Figures of a classification, each computed for many weightings of the test images at once.

Shapes: N images, K classes; `...` is any number of leading axes, one entry per weighting (a bootstrap
resample is a weighting by counts), none for the plain figure.
All in float64; a figure that no image defines is 0 or NaN as its function says.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def confusion_matrix(labels: Indices, predicted: Indices, num_classes: int, weights: Array) -> Array:
    """Count the images of class i that were taken for class j.

    Args:
        labels: True classes, [N].
        predicted: Predicted classes, [N].
        num_classes: K.
        weights: Weight of every image, [..., N].

    Returns:
        [..., K, K]; rows are true classes, columns predicted ones.
    """
    cells = np.eye(num_classes**2)[labels * num_classes + predicted]  # [N, K * K]
    return (weights @ cells).reshape(*weights.shape[:-1], num_classes, num_classes)


def accuracy(confusion: Array) -> Array:
    """Return the share of correct images, [...] of [..., K, K]."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def precision(confusion: Array) -> Array:
    """Return correct / predicted of each class, [..., K]; 0 where nothing was predicted."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2))


def recall(confusion: Array) -> Array:
    """Return correct / true of each class, [..., K]; 0 where no image is of the class."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1))


def f1(confusion: Array) -> Array:
    """Return 2 correct / (true + predicted) of each class, [..., K]; 0 where both are 0."""
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def weighted_f1(confusion: Array) -> Array:
    """Return the mean F1 weighted by the number of true images of each class, [...]."""
    support = confusion.sum(axis=-1)
    return (support * f1(confusion)).sum(axis=-1) / support.sum(axis=-1)


def macro_f1(confusion: Array) -> Array:
    """Return the plain mean of F1 over the classes that occur as true or as predicted, [...]."""
    occurs = confusion.sum(axis=-1) + confusion.sum(axis=-2) > 0
    return (f1(confusion) * occurs).sum(axis=-1) / occurs.sum(axis=-1)


def balanced_accuracy(confusion: Array) -> Array:
    """Return the plain mean of recall over the classes that occur as true, [...]."""
    occurs = confusion.sum(axis=-1) > 0
    return (recall(confusion) * occurs).sum(axis=-1) / occurs.sum(axis=-1)


def auc_one_vs_rest(labels: Indices, probabilities: Array, weights: Array) -> Array:
    """Return the area under the ROC curve of each class against all others.

    AUC = P(score of an image of the class > score of another) + P(equal) / 2, so ties count half.

    Args:
        labels: True classes, [N].
        probabilities: [N, K].
        weights: Weight of every image, [..., N].

    Returns:
        [..., K]; NaN where one of the two sides has no weight.
    """
    areas = [
        _rank_statistic(labels == index, probabilities[:, index], weights)
        for index in range(probabilities.shape[1])
    ]
    return np.stack(areas, axis=-1)


def macro_auc(areas: Array) -> Array:
    """Return the plain mean of the areas [..., K] that are defined, [...]; NaN where none is."""
    defined = ~np.isnan(areas)
    count = defined.sum(axis=-1)
    total = np.where(defined, areas, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _rank_statistic(positive: npt.NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    order = np.argsort(scores, kind="stable")
    scores, positive, weights = scores[order], positive[order], weights[..., order]
    positives, negatives = weights * positive, weights * ~positive
    zero = np.zeros((*weights.shape[:-1], 1))
    below = np.concatenate([zero, negatives.cumsum(axis=-1)], axis=-1)  # [..., N + 1], weight before place i
    lower = below[..., np.searchsorted(scores, scores, side="left")]
    not_above = below[..., np.searchsorted(scores, scores, side="right")]
    wins = (positives * (lower + not_above) / 2).sum(axis=-1)
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), np.nan)


def _diagonal(confusion: Array) -> Array:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(part: Array, whole: Array) -> Array:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)
