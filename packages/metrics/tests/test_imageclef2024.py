import numpy as np
import pytest
import torch
from medgen_metrics.frechet import frechet_distance
from medgen_metrics.imageclef2024 import official_2024_distance
from torch import Tensor


def probabilities(num_images: int, *, seed: int, strength: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(strength * torch.randn(num_images, 1000, generator=generator), dim=1)


def test_is_the_distance_between_class_probabilities() -> None:
    real, synthetic = probabilities(30, seed=0), probabilities(25, seed=1, strength=3.0)
    estimate = official_2024_distance(real, synthetic)
    assert estimate.value == pytest.approx(frechet_distance(real, synthetic), rel=1e-9)
    assert estimate.interval[0] < estimate.value < estimate.interval[1]
    # The covariances of the definition, whose product has as many eigenvalues as the smaller set has images.
    first, second = real.double().numpy(), synthetic.double().numpy()
    centred = [(each - each.mean(axis=0)) / np.sqrt(len(each) - 1) for each in (first, second)]
    roots = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    shift = first.mean(axis=0) - second.mean(axis=0)
    expected = shift @ shift + sum(np.square(each).sum() for each in centred) - 2 * roots
    assert estimate.value == pytest.approx(expected, rel=1e-9)


def test_sets_larger_than_their_rank_are_scored() -> None:
    # Rows sum to one: the covariance of any number of images is singular.
    sparse = [torch.zeros(1200, 1000), torch.zeros(1200, 1000)]
    for seed, table in enumerate(sparse):
        table[:, :20] = torch.softmax(
            torch.randn(1200, 20, generator=torch.Generator().manual_seed(seed)), dim=1
        )
    by_rows = frechet_distance(sparse[0], sparse[1], method="rows")
    assert official_2024_distance(*sparse).value == pytest.approx(by_rows, rel=1e-6)


def test_what_is_no_distribution_over_1000_classes_is_refused() -> None:
    good = probabilities(5, seed=0)
    with pytest.raises(
        ValueError, match=r"\[N >= 2, 1000\], got \(5, 2048\); this score is defined on class"
    ):
        official_2024_distance(good, torch.rand(5, 2048))
    logits = good.clone()
    logits[3] = good[3].log()
    with pytest.raises(ValueError, match=r"synthetic probabilities: row 3 sums to .* apply softmax"):
        official_2024_distance(good, logits)
