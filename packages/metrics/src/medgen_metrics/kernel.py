"""Kernel distance between two sets of image features: KID (Binkowski et al. 2018).

MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),  k(x, y) = (gamma x.y + coef)^degree,  x != x', y != y'

KID is this with degree 3, gamma = 1 / D and coef = 1. Unbiased, so a score may be slightly negative when both
sets come from one distribution. The default sums over all pairs: cheaper than the customary 100 random subsets
of 1,000, and without their noise.

Shapes: M real and N synthetic samples, D feature width.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.feature_checks import check_features, check_widths
from medgen_metrics.intervals import Estimate, normal_estimate

_BLOCK = 1024
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PolynomialKernel:
    """k(x, y) = (gamma x.y + coef)^degree."""

    degree: int = 3
    gamma: float | None = None  # None: 1 / D
    coef: float = 1.0

    def __post_init__(self) -> None:
        if self.degree < 1 or not (self.gamma is None or self.gamma > 0) or self.coef < 0:
            raise ValueError(
                f"a positive definite kernel needs degree >= 1, gamma > 0 and coef >= 0, got {self}"
            )

    @property
    def name(self) -> str:
        """The formula, e.g. "(x.y / dim + 1)^3"."""
        product = "x.y / dim" if self.gamma is None else f"{self.gamma:g} x.y"
        return f"({product} + {self.coef:g})^{self.degree}"

    def of_products(self, products: Tensor, dim: int) -> Tensor:
        """Return kernel values of inner products x.y, any shape; works in place."""
        products.mul_(1 / dim if self.gamma is None else self.gamma).add_(self.coef)
        return products if self.degree == 1 else products.pow_(self.degree)


KID_KERNEL = PolynomialKernel()


def kernel_distance(real: Tensor, synthetic: Tensor, *, kernel: PolynomialKernel = KID_KERNEL) -> Estimate:
    """Return the exact all-pairs KID with its two-sample jackknife standard error.

    The jackknife variance of a U-statistic is not below the true one on average (Efron and Stein 1981): the
    interval is conservative when both sets come from one distribution.

    Args:
        real: Features of the real images, [M >= 3, D], left unchanged.
        synthetic: Features of the synthetic images, [N >= 3, D], left unchanged.
        kernel: The kernel; the default is that of KID.

    Raises:
        ValueError: If a set is not [N >= 3, D] or the widths differ.
    """
    _check(real, synthetic)
    products = _Products(real, synthetic, kernel)
    xx, yy = products.within_real(), products.within_synthetic()  # [M], [N]
    xy, yx = products.across()  # [M], [N]
    value = float(_mmd(xx.sum(), len(xx), yy.sum(), len(yy), xy.sum()))
    without_real = _mmd(xx.sum() - 2 * xx, len(xx) - 1, yy.sum(), len(yy), xy.sum() - xy)
    without_synthetic = _mmd(xx.sum(), len(xx), yy.sum() - 2 * yy, len(yy) - 1, xy.sum() - yx)
    variance = _jackknife_variance(without_real) + _jackknife_variance(without_synthetic)
    return normal_estimate(value, math.sqrt(variance))


def kernel_distance_of_subsets(
    real: Tensor,
    synthetic: Tensor,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    kernel: PolynomialKernel = KID_KERNEL,
    seed: int,
) -> tuple[float, float]:
    """Return mean and standard deviation of KID over random subsets, as most published tables do.

    The deviation is the spread between subsets, not a standard error of the mean.

    Args:
        real: Features of the real images, [M, D].
        synthetic: Features of the synthetic images, [N, D].
        num_subsets: Number of subset pairs, at least 2.
        subset_size: Images in a subset; no larger than the smaller set.
        kernel: The kernel; the default is that of KID.
        seed: Seed of the draw.

    Raises:
        ValueError: If a subset is larger than a set, or fewer than two subsets are asked for.
    """
    _check(real, synthetic)
    smaller = min(len(real), len(synthetic))
    if not 2 <= subset_size <= smaller or num_subsets < 2:
        raise ValueError(
            f"expected 2 <= subset_size <= {smaller} (the smaller set) and num_subsets >= 2, "
            f"got subset_size {subset_size}, num_subsets {num_subsets}"
        )
    generator = np.random.default_rng(seed)
    products = _Products(real, synthetic, kernel)
    values = []
    for _ in range(num_subsets):
        subset = products.subset(
            torch.from_numpy(generator.choice(len(real), subset_size, replace=False)),
            torch.from_numpy(generator.choice(len(synthetic), subset_size, replace=False)),
        )
        xx, yy = subset.within_real().sum(), subset.within_synthetic().sum()
        values.append(_mmd(xx, subset_size, yy, subset_size, subset.across()[0].sum()))
    return float(np.mean(values)), float(np.std(values, ddof=1))


class _Products:
    """Sums of kernel values over blocks of pairs.

    With c the mean of the real features, x.y = c.c + c.(x - c) + c.(y - c) + (x - c).(y - c). Only the last term
    is a matrix product; in the precision of the features it is exact enough, because what it leaves out is what
    is large: on unnormalised transformer features, float32 products of x and y themselves lose up to 1e-3 of the
    score.
    """

    def __init__(self, real: Tensor, synthetic: Tensor, kernel: PolynomialKernel) -> None:
        self.kernel = kernel
        working = torch.promote_types(real.dtype, synthetic.dtype)
        working = working if working in {torch.float32, torch.float64} else torch.float32
        centre = sum(block.double().sum(dim=0) for block in real.split(_BLOCK)) / len(real)
        self.centre_norm = float(centre @ centre)
        self.x, self.x_lift = _lifted(real, centre, working)
        self.y, self.y_lift = _lifted(synthetic, centre, working)

    def subset(self, real_rows: Tensor, synthetic_rows: Tensor) -> "_Products":
        """Return the same for chosen rows."""
        chosen = object.__new__(_Products)
        chosen.kernel, chosen.centre_norm = self.kernel, self.centre_norm
        chosen.x, chosen.x_lift = self.x[real_rows], self.x_lift[real_rows]
        chosen.y, chosen.y_lift = self.y[synthetic_rows], self.y_lift[synthetic_rows]
        return chosen

    def within_real(self) -> Array:
        """Return sum_j k(x_i, x_j) over j != i, [M]."""
        return self._within(self.x, self.x_lift)

    def within_synthetic(self) -> Array:
        """Return sum_j k(y_i, y_j) over j != i, [N]."""
        return self._within(self.y, self.y_lift)

    def across(self) -> tuple[Array, Array]:
        """Return sum_j k(x_i, y_j) for every i, [M], and sum_i k(x_i, y_j) for every j, [N]."""
        rows, columns = np.zeros(len(self.x)), np.zeros(len(self.y))
        for top, left in _corners(len(self.x), len(self.y)):
            i, j = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
            values = self._block(self.x[i], self.x_lift[i], self.y[j], self.y_lift[j])
            rows[i] += values.sum(dim=1).numpy()
            columns[j] += values.sum(dim=0).numpy()
        return rows, columns

    def _within(self, features: Tensor, lift: Tensor) -> Array:
        sums = np.zeros(len(features))
        for top, left in _corners(len(features), len(features)):
            if left < top:  # the mirror image of a block already summed
                continue
            i, j = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
            values = self._block(features[i], lift[i], features[j], lift[j])
            if top == left:
                values.fill_diagonal_(0.0)
            else:
                sums[j] += values.sum(dim=0).numpy()
            sums[i] += values.sum(dim=1).numpy()
        return sums

    def _block(self, a: Tensor, a_lift: Tensor, b: Tensor, b_lift: Tensor) -> Tensor:
        products = (a @ b.T).double()
        products += a_lift[:, None]
        products += b_lift + self.centre_norm
        return self.kernel.of_products(products, a.shape[1])


def _lifted(features: Tensor, centre: Tensor, working: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x - c in the working precision, [N, D], and c.(x - c) in float64, [N]."""
    centred = torch.empty(features.shape, dtype=working)
    lifts = []
    for start in range(0, len(features), _BLOCK):
        rows = centred[start : start + _BLOCK]
        rows.copy_(features[start : start + _BLOCK].detach().cpu().double() - centre.cpu())
        # Of the rounded rows: both terms then belong to the same point.
        lifts.append(rows.double() @ centre.cpu())
    return centred, torch.cat(lifts)


def _corners(num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    return [(top, left) for top in range(0, num_rows, _BLOCK) for left in range(0, num_columns, _BLOCK)]


def _mmd(xx: Array | float, m: int, yy: Array | float, n: int, xy: Array | float) -> Array:
    """Return MMD^2 from sums over ordered pairs; a diagonal is not in the sums."""
    return np.asarray(xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n))


def _jackknife_variance(leave_one_out: Array) -> float:
    n = len(leave_one_out)
    return float((n - 1) / n * np.square(leave_one_out - leave_one_out.mean()).sum())


def _check(real: Tensor, synthetic: Tensor) -> None:
    check_features(real, "real features", least=3)
    check_features(synthetic, "synthetic features", least=3)
    check_widths(real.shape[1], synthetic.shape[1])
