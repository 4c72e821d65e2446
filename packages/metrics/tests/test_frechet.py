import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from medgen_metrics.frechet import (
    FeatureStatistics,
    fit_statistics,
    frechet_distance,
    frechet_distance_of_statistics,
    frechet_estimate,
)
from torch import Tensor

Draw = Callable[..., Tensor]


def random_rotation(dim: int, seed: int) -> Tensor:
    matrix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (3.0, 1.0), (0.0, 2.0), (1.5, 0.5), (1e-3, 1.001)])
def test_matches_closed_form_for_isotropic_gaussians(shift: float, scale: float) -> None:
    dim = 6
    real = FeatureStatistics(torch.zeros(dim).double(), torch.eye(dim).double(), 100)
    synthetic = FeatureStatistics(torch.full((dim,), shift).double(), scale**2 * torch.eye(dim).double(), 100)
    expected = dim * shift**2 + dim * (1 - scale) ** 2
    assert frechet_distance_of_statistics(real, synthetic) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-6])
def test_matches_closed_form_for_commuting_anisotropic_covariances(smallest: float) -> None:
    # Covariances with common axes: the distance is the sum over axes of (s1 - s2)^2.
    dim = 40
    axes = random_rotation(dim, seed=1)
    first = torch.logspace(0, math.log10(smallest), dim, dtype=torch.float64)
    second = first.flip(0) * 2
    real, synthetic = (
        FeatureStatistics(torch.zeros(dim).double(), axes @ deviations.square().diag() @ axes.T, 100)
        for deviations in (first, second)
    )
    expected = float((first - second).square().sum())
    assert frechet_distance_of_statistics(real, synthetic) == pytest.approx(expected, rel=1e-9)


def test_matches_closed_form_for_one_feature(gaussian: Draw) -> None:
    real, synthetic = gaussian(50, 1, seed=0), gaussian(30, 1, seed=1, shift=2.0, scale=3.0)
    expected = (real.mean() - synthetic.mean()) ** 2 + (real.std() - synthetic.std()) ** 2
    assert frechet_distance(real, synthetic) == pytest.approx(float(expected), rel=1e-12)


def test_agrees_with_eigenvalues_of_the_product_in_numpy(gaussian: Draw) -> None:
    real, synthetic = gaussian(80, 12, seed=0), gaussian(70, 12, seed=1, shift=0.3, scale=1.4)
    first, second = (np.cov(features.numpy(), rowvar=False) for features in (real, synthetic))
    root_trace = np.sqrt(np.linalg.eigvals(first @ second).real.clip(min=0)).sum()
    mean_term = np.square(real.numpy().mean(0) - synthetic.numpy().mean(0)).sum()
    expected = mean_term + np.trace(first) + np.trace(second) - 2 * root_trace
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-9)


def test_all_factors_agree_on_full_rank_sets(gaussian: Draw) -> None:
    real, synthetic = gaussian(300, 64, seed=0), gaussian(200, 64, seed=1, shift=0.1, scale=1.2)
    by_rows = frechet_distance(real, synthetic, method="rows")
    for method in ("auto", "cholesky", "eigh"):
        assert frechet_distance(real, synthetic, method=method) == pytest.approx(by_rows, rel=1e-9)


def test_rows_and_eigh_agree_on_rank_deficient_sets(gaussian: Draw) -> None:
    real, synthetic = gaussian(50, 96, seed=0), gaussian(10, 96, seed=1)
    by_rows = frechet_distance(real, synthetic, method="rows")
    assert frechet_distance(real, synthetic) == by_rows
    assert frechet_distance(real, synthetic, method="eigh") == pytest.approx(by_rows, rel=1e-6)


def test_a_large_and_a_small_set_mix_two_factors(gaussian: Draw) -> None:
    real, synthetic = gaussian(200, 48, seed=0), gaussian(9, 48, seed=1)
    assert frechet_distance(real, synthetic) == pytest.approx(
        frechet_distance(real, synthetic, method="rows"), rel=1e-9
    )


def test_cholesky_of_a_singular_covariance_says_so(gaussian: Draw) -> None:
    features = gaussian(100, 6, seed=0)
    singular = torch.cat([features, features[:, :1]], dim=1)
    singular[:, -1] = features[:, 0] + features[:, 1]
    small = torch.cat([gaussian(4, 6, seed=1), torch.zeros(4, 1)], dim=1)
    with pytest.raises(ValueError, match="singular: Cholesky needs more samples"):
        frechet_distance(small, singular, method="cholesky")


def test_dead_features_change_nothing(gaussian: Draw) -> None:
    real, synthetic = gaussian(60, 8, seed=0), gaussian(50, 8, seed=1, scale=1.5)
    with_dead = [
        torch.cat([features, torch.zeros(len(features), 5)], dim=1) for features in (real, synthetic)
    ]
    assert frechet_distance(*with_dead) == pytest.approx(frechet_distance(real, synthetic), rel=1e-12)


@pytest.mark.parametrize("num_samples", [5, 500])
def test_identical_sets_are_at_distance_zero(gaussian: Draw, num_samples: int) -> None:
    features = gaussian(num_samples, 32, seed=0)
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-10)


def test_is_symmetric(gaussian: Draw) -> None:
    real, synthetic = gaussian(64, 20, seed=0), gaussian(15, 20, seed=1, shift=1.0)
    assert frechet_distance(real, synthetic) == pytest.approx(frechet_distance(synthetic, real), rel=1e-12)


@pytest.mark.parametrize("dim", [8, 80])
def test_common_translation_and_rotation_change_nothing(gaussian: Draw, dim: int) -> None:
    real, synthetic = gaussian(60, dim, seed=0), gaussian(50, dim, seed=1, scale=1.3)
    turn = random_rotation(dim, seed=2)
    moved = frechet_distance(real @ turn + 300.0, synthetic @ turn + 300.0)
    assert moved == pytest.approx(frechet_distance(real, synthetic), rel=1e-9)


def test_shift_alone_costs_its_squared_length(gaussian: Draw) -> None:
    features = gaussian(4, 32, seed=2)  # N < D
    assert frechet_distance(features, features + 1) == pytest.approx(32.0, rel=1e-9)


def test_large_offset_in_float32_costs_no_digits(gaussian: Draw) -> None:
    real, synthetic = (
        gaussian(300, 8, seed=0).float() + 1000,
        gaussian(300, 8, seed=1, scale=1.2).float() + 1000,
    )
    expected = frechet_distance(real.double() - 1000, synthetic.double() - 1000)
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-9)


def test_blocks_do_not_show_in_the_statistics(gaussian: Draw) -> None:
    features = gaussian(9000, 5, seed=0)
    statistics = fit_statistics(features)
    np.testing.assert_allclose(statistics.mean.numpy(), features.numpy().mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        statistics.covariance.numpy(), np.cov(features.numpy(), rowvar=False), rtol=1e-11
    )


@pytest.mark.parametrize("num_samples", [10, 100])
def test_inputs_are_left_unchanged(gaussian: Draw, num_samples: int) -> None:
    real, synthetic = gaussian(num_samples, 24, seed=0), gaussian(num_samples, 24, seed=1)
    before = real.clone(), synthetic.clone()
    frechet_estimate(real, synthetic)
    fit_statistics(real)
    assert torch.equal(real, before[0])
    assert torch.equal(synthetic, before[1])


@pytest.mark.parametrize(("num_real", "num_synthetic"), [(60, 50), (12, 9), (60, 9)])
def test_standard_error_is_the_slope_under_a_reweighted_sample(
    gaussian: Draw, num_real: int, num_synthetic: int
) -> None:
    # The delta method against itself: leaving one sample out moves the distance by -psi / N to first order.
    real, synthetic = (
        gaussian(num_real, 10, seed=0),
        gaussian(num_synthetic, 10, seed=1, shift=1.0, scale=1.5),
    )
    kept = torch.ones(num_real, dtype=torch.bool)
    leave_one_out = []
    for left_out in range(num_real):
        kept[left_out] = False
        leave_one_out.append(frechet_distance(real[kept], synthetic))
        kept[left_out] = True
    for left_out in range(num_synthetic):
        others = torch.arange(num_synthetic) != left_out
        leave_one_out.append(frechet_distance(real, synthetic[others]))
    n, m = num_real, num_synthetic
    variance = (n - 1) / n * np.square(leave_one_out[:n] - np.mean(leave_one_out[:n])).sum()
    variance += (m - 1) / m * np.square(leave_one_out[n:] - np.mean(leave_one_out[n:])).sum()
    # First order only: 1 / N apart from the jackknife.
    assert frechet_estimate(real, synthetic).standard_error == pytest.approx(
        math.sqrt(variance), rel=2.5 / min(n, m)
    )


@pytest.mark.parametrize("num_samples", [12, 80])
def test_interval_covers_the_expected_distance(gaussian: Draw, num_samples: int) -> None:
    estimates = [
        frechet_estimate(
            gaussian(num_samples, 16, seed=2 * repeat),
            gaussian(num_samples, 16, seed=2 * repeat + 1, shift=0.5),
        )
        for repeat in range(100)
    ]
    expected = np.mean([estimate.value for estimate in estimates])
    covered = sum(estimate.interval[0] <= expected <= estimate.interval[1] for estimate in estimates)
    assert 86 <= covered <= 100


def test_rejects_one_sample() -> None:
    with pytest.raises(ValueError, match=r"features must be \[N >= 2, D\], got \(1, 8\)"):
        fit_statistics(torch.zeros(1, 8))


def test_rejects_unequal_widths() -> None:
    with pytest.raises(ValueError, match="real 8, synthetic 9; were both sets encoded by the same extractor"):
        frechet_distance(torch.rand(4, 8), torch.rand(4, 9))


def test_rejects_nan_and_names_the_row() -> None:
    features = torch.rand(5, 3)
    features[3, 1] = torch.nan
    with pytest.raises(ValueError, match="real features hold NaN or infinity, first in row 3"):
        frechet_distance(features, torch.rand(5, 3))
