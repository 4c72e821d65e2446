from collections.abc import Callable

import numpy as np
import pytest
import torch
from medgen_metrics.kernel import PolynomialKernel, kernel_distance, kernel_distance_of_subsets
from torch import Tensor

Draw = Callable[..., Tensor]


def mmd_by_loops(
    x: np.ndarray, y: np.ndarray, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> float:
    """The definition, term by term."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(((1 / len(a) if gamma is None else gamma) * (a @ b) + coef) ** degree)

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    return float(xx + yy - 2 * xy)


def test_agrees_with_the_definition_term_by_term(gaussian: Draw) -> None:
    real, synthetic = gaussian(30, 5, seed=0), gaussian(20, 5, seed=1, shift=0.4)
    expected = mmd_by_loops(real.numpy(), synthetic.numpy())
    assert kernel_distance(real, synthetic).value == pytest.approx(expected, rel=1e-11)


def test_standard_error_agrees_with_a_jackknife_by_hand(gaussian: Draw) -> None:
    real, synthetic = gaussian(14, 3, seed=0), gaussian(11, 3, seed=1, shift=0.4)
    x, y = real.numpy(), synthetic.numpy()
    without_real = [mmd_by_loops(np.delete(x, i, axis=0), y) for i in range(14)]
    without_synthetic = [mmd_by_loops(x, np.delete(y, i, axis=0)) for i in range(11)]
    variance = 13 * np.var(without_real) + 10 * np.var(without_synthetic)
    assert kernel_distance(real, synthetic).standard_error == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_blocks_do_not_show(gaussian: Draw) -> None:
    real, synthetic = gaussian(2100, 4, seed=0), gaussian(50, 4, seed=1, shift=0.2)
    x, y = real.numpy(), synthetic.numpy()
    xx, yy, xy = ((a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    expected = (
        (xx.sum() - np.trace(xx)) / (2100 * 2099) + (yy.sum() - np.trace(yy)) / (50 * 49) - 2 * xy.mean()
    )
    assert kernel_distance(real, synthetic).value == pytest.approx(expected, rel=1e-9)


def test_is_symmetric(gaussian: Draw) -> None:
    real, synthetic = gaussian(25, 6, seed=0), gaussian(40, 6, seed=1, scale=1.5)
    one, other = kernel_distance(real, synthetic), kernel_distance(synthetic, real)
    assert one.value == pytest.approx(other.value, rel=1e-12)
    assert one.standard_error == pytest.approx(other.standard_error, rel=1e-12)


def test_is_unbiased_where_both_sets_come_from_one_distribution(gaussian: Draw) -> None:
    values = [
        kernel_distance(gaussian(20, 8, seed=2 * repeat), gaussian(20, 8, seed=2 * repeat + 1)).value
        for repeat in range(300)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert min(values) < 0 < max(values)


def test_interval_covers_the_true_value(gaussian: Draw) -> None:
    truth = kernel_distance(gaussian(6000, 16, seed=10_001), gaussian(6000, 16, seed=10_002, shift=0.4)).value
    covered = 0
    for repeat in range(100):
        estimate = kernel_distance(
            gaussian(60, 16, seed=2 * repeat), gaussian(60, 16, seed=2 * repeat + 1, shift=0.4)
        )
        covered += estimate.interval[0] <= truth <= estimate.interval[1]
    assert 86 <= covered <= 100


def test_subsets_scatter_around_the_exact_value(gaussian: Draw) -> None:
    real, synthetic = gaussian(200, 8, seed=0), gaussian(200, 8, seed=1, shift=0.3)
    mean, deviation = kernel_distance_of_subsets(real, synthetic, num_subsets=200, subset_size=40, seed=0)
    exact = kernel_distance(real, synthetic).value
    assert mean == pytest.approx(exact, abs=4 * deviation / np.sqrt(200))
    assert kernel_distance_of_subsets(real, synthetic, num_subsets=3, subset_size=40, seed=5) == (
        kernel_distance_of_subsets(real, synthetic, num_subsets=3, subset_size=40, seed=5)
    )


def test_subsets_of_everything_are_the_exact_value(gaussian: Draw) -> None:
    real, synthetic = gaussian(30, 8, seed=0), gaussian(30, 8, seed=1)
    mean, deviation = kernel_distance_of_subsets(real, synthetic, num_subsets=3, subset_size=30, seed=0)
    assert mean == pytest.approx(kernel_distance(real, synthetic).value, rel=1e-9)
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_subset_larger_than_a_set_is_refused(gaussian: Draw) -> None:
    with pytest.raises(ValueError, match=r"subset_size <= 25 .*got subset_size 1000"):
        kernel_distance_of_subsets(gaussian(25, 3, seed=0), gaussian(30, 3, seed=1), seed=0)


def test_inputs_are_left_unchanged(gaussian: Draw) -> None:
    real, synthetic = gaussian(20, 4, seed=0), gaussian(20, 4, seed=1)
    before = real.clone(), synthetic.clone()
    kernel_distance(real, synthetic)
    assert torch.equal(real, before[0])
    assert torch.equal(synthetic, before[1])


def test_rejects_too_few_and_unequal_widths() -> None:
    with pytest.raises(ValueError, match=r"synthetic features must be \[N >= 3, D\], got \(2, 4\)"):
        kernel_distance(torch.rand(5, 4), torch.rand(2, 4))
    with pytest.raises(ValueError, match="real 4, synthetic 6"):
        kernel_distance(torch.rand(5, 4), torch.rand(5, 6))


@pytest.mark.parametrize(("degree", "gamma", "coef"), [(1, None, 0.0), (2, 0.3, 1.0), (4, 0.05, 2.5)])
def test_every_polynomial_kernel_agrees_with_the_definition(
    gaussian: Draw, degree: int, gamma: float | None, coef: float
) -> None:
    real, synthetic = gaussian(22, 5, seed=0), gaussian(18, 5, seed=1, shift=0.4)
    kernel = PolynomialKernel(degree=degree, gamma=gamma, coef=coef)
    expected = mmd_by_loops(real.numpy(), synthetic.numpy(), degree=degree, gamma=gamma, coef=coef)
    assert kernel_distance(real, synthetic, kernel=kernel).value == pytest.approx(expected, rel=1e-10)
    small, _ = kernel_distance_of_subsets(
        real, synthetic[:22], num_subsets=2, subset_size=18, kernel=kernel, seed=0
    )
    assert small == pytest.approx(expected, rel=0.5)


def test_linear_kernel_is_the_squared_distance_of_the_means_without_its_bias(gaussian: Draw) -> None:
    real, synthetic = gaussian(40, 5, seed=0), gaussian(30, 5, seed=1, shift=0.4)
    shift = real.mean(dim=0) - synthetic.mean(dim=0)
    bias = real.var(dim=0).sum() / 40 + synthetic.var(dim=0).sum() / 30
    kernel = PolynomialKernel(degree=1, gamma=1.0, coef=0.0)
    value = kernel_distance(real, synthetic, kernel=kernel).value
    assert value == pytest.approx(float(shift @ shift - bias), rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 5.0, 30.0])
def test_float32_features_keep_five_digits_also_far_from_zero(gaussian: Draw, offset: float) -> None:
    real = (gaussian(2000, 128, seed=0) + offset).float()
    synthetic = (gaussian(2000, 128, seed=1, shift=0.03) + offset).float()
    x, y = real.double().numpy(), synthetic.double().numpy()
    xx, yy, xy = ((a @ b.T / 128 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    num_pairs = 2000 * 1999
    expected = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / num_pairs - 2 * xy.mean()
    assert kernel_distance(real, synthetic).value == pytest.approx(expected, rel=1e-5)


def test_kernel_that_is_no_kernel_is_refused() -> None:
    for settings in ({"degree": 0}, {"gamma": 0.0}, {"coef": -1.0}):
        with pytest.raises(ValueError, match="degree >= 1, gamma > 0 and coef >= 0"):
            PolynomialKernel(**settings)
    assert PolynomialKernel().name == "(x.y / dim + 1)^3"
    assert PolynomialKernel(degree=2, gamma=0.5, coef=0.0).name == "(0.5 x.y + 0)^2"
