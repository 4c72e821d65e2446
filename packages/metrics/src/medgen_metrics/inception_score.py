"""Inception Score (Salimans et al. 2016) of class scores, with mean, deviation and median over splits.

IS = exp( mean_x KL( p(y|x) || mean_x p(y|x) ) )          (Salimans et al. 2016, section 4)

1 for images that are all classified alike, at most the number of classes. It sees no real images, grows with
the size of a split, and knows ImageNet classes only: on medical images it ranks little. It is here because
published tables hold it.

Shapes: N images, C classes, K splits.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.intervals import Estimate, deviation_estimate, normal_estimate, student_estimate

Variant = Literal["salimans2016", "imageclef2024"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class InceptionScore:
    """The score of each split and what papers make of them."""

    mean: float
    std: float  # over splits, ddof=1
    median: float
    per_split: tuple[float, ...]
    split_sizes: tuple[int, ...]
    whole: Estimate  # all images as one split; jackknife over images
    variant: Variant
    seed: int | None  # None: in the given order

    @property
    def population_std(self) -> float:
        """Deviation over splits with ddof=0, as the code of the paper and torch-fidelity print it."""
        return float(np.std(self.per_split))


def inception_score(
    logits: Tensor, *, num_splits: int = 10, seed: int | None, variant: Variant = "salimans2016"
) -> InceptionScore:
    """Return the Inception Score over splits of the images.

    "salimans2016": sizes differ by at most one, so that no split is left with a single image, whose score is
    always 1. "imageclef2024": K splits of floor(N / K) images and the rest left out, logarithms of p + 1e-16,
    as the evaluator of ImageCLEFmed MEDVQA-GI 2024 has it.

    The standard error of `whole` is that of the jackknife over images. The spread over splits, `std`, is
    neither that nor a standard error of the mean: the splits of one image set score lower than the set.

    Args:
        logits: Class scores, [N, C], left unchanged; published scores take "inception:logits_unbiased".
        num_splits: Number of splits K.
        seed: Seed of the order in which images are dealt into splits; None keeps the given order, as the
            published evaluators do with files in alphabetical order.
        variant: Which published form.

    Raises:
        ValueError: If there are fewer than two images for a split, or the logits are not finite.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be [N, C >= 2], got {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity; extract them again")
    if variant not in {"salimans2016", "imageclef2024"}:
        raise ValueError(f"variant must be 'salimans2016' or 'imageclef2024', got {variant!r}")
    num_images = len(logits)
    if num_splits < 1 or num_images < 2 * num_splits:
        raise ValueError(
            f"{num_splits} splits need at least {max(2, 2 * num_splits)} images, two each, got {num_images}; "
            f"give more images or num_splits <= {max(1, num_images // 2)}"
        )
    log_p = torch.log_softmax(logits.detach().cpu().to(torch.float64), dim=1).numpy()
    order = np.arange(num_images) if seed is None else np.random.default_rng(seed).permutation(num_images)
    splits = _split(order, num_splits, drop_rest=variant == "imageclef2024")
    score = _score_with_epsilon if variant == "imageclef2024" else _score
    per_split = tuple(score(log_p[split]) for split in splits)
    return InceptionScore(
        mean=float(np.mean(per_split)),
        std=float(np.std(per_split, ddof=1)) if num_splits > 1 else 0.0,
        median=float(np.median(per_split)),
        per_split=per_split,
        split_sizes=tuple(len(split) for split in splits),
        whole=_jackknifed(log_p),
        variant=variant,
        seed=seed,
    )


def split_estimates(score: InceptionScore) -> dict[str, Estimate]:
    """Return mean, std and median over splits with intervals, as if scores of splits were normal.

    Splits share no image, so their scores are independent draws. What the intervals cover is the expected score
    of *one split of this size*, which is below that of the whole set.

    Raises:
        ValueError: If there is one split only.
    """
    num_splits = len(score.per_split)
    if num_splits < 2:
        raise ValueError("expected at least 2 splits, got 1; the score of the whole set has its own interval")
    error = score.std / math.sqrt(num_splits)
    return {
        "mean": student_estimate(score.mean, error, num_splits - 1, lowest=1.0),
        "std": deviation_estimate(score.std, num_splits - 1),
        # The median of normal draws is sqrt(pi / 2) as uncertain as their mean.
        "median": student_estimate(score.median, error * math.sqrt(math.pi / 2), num_splits - 1, lowest=1.0),
    }


def _split(order: NDArray[np.int64], num_splits: int, *, drop_rest: bool) -> list[NDArray[np.int64]]:
    if drop_rest:
        order = order[: len(order) // num_splits * num_splits]
    return np.array_split(order, num_splits)


def _score(log_p: Array) -> float:
    """Return exp of the mean divergence from the marginal; log_p is [n, C]."""
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    return math.exp(float((p * log_p).sum(axis=1).mean()) + _entropy(marginal))


def _score_with_epsilon(log_p: Array) -> float:
    p = np.exp(log_p)
    epsilon = 1e-16
    divergence = p * (np.log(p + epsilon) - np.log(p.mean(axis=0) + epsilon))
    return math.exp(float(divergence.sum(axis=1).mean()))


def _jackknifed(log_p: Array) -> Estimate:
    """Return the score of all images with the jackknife error of its logarithm, brought to the score.

    On the logarithm, leaving out image i changes two means; no pass over all images is needed.
    """
    p = np.exp(log_p)
    num_images = len(p)
    own = (p * log_p).sum(axis=1)  # minus the entropy of each image, [N]
    total = p.sum(axis=0)
    value = float(own.mean()) + _entropy(total / num_images)
    without = np.empty(num_images)
    for i in range(num_images):
        marginal = np.maximum(total - p[i], 0.0) / (num_images - 1)
        without[i] = (own.sum() - own[i]) / (num_images - 1) + _entropy(marginal)
    variance = (num_images - 1) / num_images * float(np.square(without - without.mean()).sum())
    score = math.exp(value)
    return normal_estimate(score, score * math.sqrt(variance), lowest=1.0, highest=float(log_p.shape[1]))


def _entropy(p: Array) -> float:
    positive = p[p > 0]
    return -float((positive * np.log(positive)).sum())
