from collections.abc import Callable

import numpy as np
import pytest
import torch
from medgen_metrics.frechet import frechet_distance
from medgen_metrics.frechet_limit import frechet_limit
from torch import Tensor

Draw = Callable[..., Tensor]


def true_distance(dim: int, shift: float, scale: float) -> float:
    # The `gaussian` fixture shifts every feature and scales its deviation.
    deviations = torch.linspace(1.0, 0.2, dim, dtype=torch.float64)
    return dim * shift**2 + (1 - scale) ** 2 * float(deviations.square().sum())


@pytest.mark.parametrize("extrapolated", ["synthetic", "both"])
def test_most_of_the_bias_is_gone(gaussian: Draw, extrapolated: str) -> None:
    truth = true_distance(24, 0.1, 1.2)
    num_real = 20_000 if extrapolated == "synthetic" else 400
    plain, limits = [], []
    for repeat in range(12):
        real = gaussian(num_real, 24, seed=2 * repeat)
        synthetic = gaussian(400, 24, seed=2 * repeat + 1, shift=0.1, scale=1.2)
        plain.append(frechet_distance(real, synthetic))
        limit = frechet_limit(real, synthetic, extrapolated=extrapolated, smallest=0.25, seed=0)  # type: ignore[arg-type]
        limits.append(limit.limit.value)
    bias = np.mean(plain) - truth
    assert bias > 0.1
    assert abs(np.mean(limits) - truth) < 0.2 * bias


def test_interval_covers_the_distance_of_infinite_sets(gaussian: Draw) -> None:
    truth = true_distance(8, 0.2, 1.3)
    covered = 0
    for repeat in range(60):
        real = gaussian(300, 8, seed=2 * repeat)
        synthetic = gaussian(300, 8, seed=2 * repeat + 1, shift=0.2, scale=1.3)
        limit = frechet_limit(real, synthetic, extrapolated="both", smallest=0.3, seed=repeat).limit
        covered += limit.interval[0] <= truth <= limit.interval[1]
    assert 52 <= covered <= 60


def test_line_passes_the_whole_set_and_repeats_with_the_seed(gaussian: Draw) -> None:
    real, synthetic = gaussian(200, 10, seed=0), gaussian(120, 10, seed=1, shift=0.3)
    first, again, other = (frechet_limit(real, synthetic, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.distances != other.distances
    assert first.fractions[-1] == 1.0
    assert first.distances[-1] == pytest.approx(frechet_distance(real, synthetic), rel=1e-9)
    assert first.slope > 0
    assert first.limit.value < first.distances[-1]


def test_small_sets_use_their_rows(gaussian: Draw) -> None:
    real, synthetic = gaussian(40, 50, seed=0), gaussian(40, 50, seed=1)
    limit = frechet_limit(real, synthetic, extrapolated="both", seed=0)
    assert limit.distances[-1] == pytest.approx(frechet_distance(real, synthetic), rel=1e-9)
    assert limit.distances[0] > limit.distances[-1] > 0


def test_settings_out_of_range_are_refused(gaussian: Draw) -> None:
    real, synthetic = gaussian(40, 3, seed=0), gaussian(10, 3, seed=1)
    with pytest.raises(ValueError, match=r"at least two images in the smallest subset, got .* of 10 images"):
        frechet_limit(real, synthetic, smallest=0.1, seed=0)
    with pytest.raises(ValueError, match="num_sizes >= 3"):
        frechet_limit(real, synthetic, num_sizes=2, smallest=0.5, seed=0)
    with pytest.raises(ValueError, match="extrapolated must be"):
        frechet_limit(real, synthetic, extrapolated="real", smallest=0.5, seed=0)  # type: ignore[arg-type]
