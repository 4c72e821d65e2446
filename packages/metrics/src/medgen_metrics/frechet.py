"""Frechet distance between two sets of image features (Heusel et al. 2017, eq. 6).

FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2

Works on features, never on images: FID, FD-DINOv2 and FD-MedCLIP are this one function on the features of
different extractors. Nothing here takes a matrix square root. With any factors F1, F2 such that S = F^T F,
the last trace is the sum of the singular values of F1 F2^T, which is accurate also when S1 or S2 is singular.
The factor of a small set is its centred rows; the factor of a large one is the Cholesky (or, if singular, the
eigen-) factor of its covariance.

Shapes: N samples of one set, D feature width, R rows of a factor.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medgen_metrics.intervals import Estimate, normal_estimate

FactorMethod = Literal["auto", "rows", "cholesky", "eigh"]
# Rows converted to float64 at a time: 64 MiB at D = 2048.
_BLOCK = 4096


@dataclass(frozen=True)
class FeatureStatistics:
    """Gaussian fitted to a feature set."""

    mean: Tensor  # [D] float64
    covariance: Tensor  # [D, D] float64
    num_samples: int


@dataclass(frozen=True)
class _Factor:
    rows: Tensor  # F [R, D] with F^T F = covariance
    inverse: (
        Tensor | None
    )  # [D, R], takes x - m = F^T z to z; None where the rows of F are the samples themselves


def fit_statistics(features: Tensor) -> FeatureStatistics:
    """Fit the mean and the unbiased covariance of a feature set, in float64 and around the mean.

    Args:
        features: Features of one image set, [N, D], any float dtype; left unchanged.

    Returns:
        Statistics in float64: the distance is a small difference of large traces.

    Raises:
        ValueError: If `features` is not 2-D, holds fewer than two samples, or holds NaN or infinity.
    """
    _check(features, "features")
    mean = _mean(features)
    covariance = mean.new_zeros(len(mean), len(mean))
    for block in features.split(_BLOCK):
        # numpy sees X^T X as symmetric and does half the work of a general product.
        centred = (block.double().cpu() - mean).numpy()
        covariance += torch.from_numpy(centred.T @ centred)
    return FeatureStatistics(mean, covariance / (len(features) - 1), len(features))


def frechet_distance_of_statistics(real: FeatureStatistics, synthetic: FeatureStatistics) -> float:
    """Return the squared Frechet distance between two fitted Gaussians; lower is better.

    Biased upwards for small sets, so compare only scores with equal `num_samples`.

    Raises:
        ValueError: If the two feature dimensions differ.
    """
    _check_widths(len(real.mean), len(synthetic.mean))
    factors = [_covariance_factor(statistics.covariance, "auto") for statistics in (real, synthetic)]
    traces = real.covariance.trace() + synthetic.covariance.trace()
    return _distance(
        real.mean - synthetic.mean, traces, torch.linalg.svdvals(factors[0].rows @ factors[1].rows.T)
    )


def frechet_distance(real: Tensor, synthetic: Tensor, *, method: FactorMethod = "auto") -> float:
    """Return the squared Frechet distance between two feature sets; lower is better.

    Args:
        real: Features of the real images, [N1 >= 2, D], left unchanged.
        synthetic: Features of the synthetic images, [N2 >= 2, D], left unchanged.
        method: Factor of each covariance. "auto": rows if N <= D, else Cholesky, else eigh.

    Raises:
        ValueError: If a set is not [N >= 2, D] or the widths differ.
    """
    return _decompose(real, synthetic, method=method, vectors=False)[0]


def frechet_estimate(real: Tensor, synthetic: Tensor) -> Estimate:
    """Return the Frechet distance with a standard error and a 95% interval.

    The standard error is the delta method: the distance changes by psi(x) / N when one more sample x arrives,
    with psi(x) = 2 (m1 - m2).(x - m1) + |x - m1|^2 - (x - m1)^T T (x - m1) - const and T the optimal
    transport map between the two Gaussians. It needs no second decomposition. The interval covers the
    expected distance *at these set sizes*; when both sets come from one distribution it is conservative.

    Args:
        real: Features of the real images, [N1 >= 2, D].
        synthetic: Features of the synthetic images, [N2 >= 2, D].

    Raises:
        ValueError: If a set is not [N >= 2, D] or the widths differ.
    """
    value, real_transport, synthetic_transport = _decompose(real, synthetic, method="auto", vectors=True)
    mean_shift = _mean(real) - _mean(synthetic)
    variance = _influence_variance(real, mean_shift, real_transport)
    variance += _influence_variance(synthetic, -mean_shift, synthetic_transport)
    return normal_estimate(value, math.sqrt(variance), lowest=0.0)


def _decompose(
    real: Tensor, synthetic: Tensor, *, method: FactorMethod, vectors: bool
) -> tuple[float, Tensor, Tensor]:
    """Return the distance and, if asked, (x - m)^T T (x - m) for every sample of both sets, [N1] and [N2]."""
    _check(real, "real features")
    _check(synthetic, "synthetic features")
    _check_widths(real.shape[1], synthetic.shape[1])
    factors = [_factor(features, method) for features in (real, synthetic)]
    product = factors[0].rows @ factors[1].rows.T  # [R1, R2]
    traces = factors[0].rows.square().sum() + factors[1].rows.square().sum()
    mean_shift = _mean(real) - _mean(synthetic)
    if not vectors:
        empty = traces.new_zeros(0)
        return _distance(mean_shift, traces, torch.linalg.svdvals(product)), empty, empty
    left, singular_values, right = torch.linalg.svd(product, full_matrices=False)
    value = _distance(mean_shift, traces, singular_values)
    real_transport = _transport_cost(real, factors[0], left, singular_values)
    synthetic_transport = _transport_cost(synthetic, factors[1], right.mT, singular_values)
    return value, real_transport, synthetic_transport


def _transport_cost(features: Tensor, factor: _Factor, vectors: Tensor, singular_values: Tensor) -> Tensor:
    """Return (x - m)^T T (x - m) of every sample, [N].

    With x - m = F^T z, T acts on z as U diag(s) U^T. For a factor made of rows, z is sqrt(N - 1) times a unit
    vector.
    """
    if factor.inverse is None:
        return (len(features) - 1) * (vectors.square() @ singular_values)
    to_coordinates = factor.inverse @ vectors  # [D, min(R1, R2)]
    mean = _mean(features)
    blocks = [
        ((block.double().cpu() - mean) @ to_coordinates).square() @ singular_values
        for block in features.split(_BLOCK)
    ]
    return torch.cat(blocks)


def _influence_variance(features: Tensor, mean_shift: Tensor, transport_cost: Tensor) -> float:
    """Return the share of the variance of the distance that comes from the chance in one set."""
    mean = _mean(features)
    own_terms = []
    for block in features.split(_BLOCK):
        centred = block.double().cpu() - mean
        own_terms.append(2 * centred @ mean_shift + centred.square().sum(dim=1))
    influence = torch.cat(own_terms) - transport_cost
    return float(influence.var() / len(features))


def _factor(features: Tensor, method: FactorMethod) -> _Factor:
    if method == "rows" or (method == "auto" and len(features) <= features.shape[1]):
        rows = (features.double().cpu() - _mean(features)) / math.sqrt(len(features) - 1)
        return _Factor(rows, inverse=None)
    return _covariance_factor(fit_statistics(features).covariance, method)


def _covariance_factor(covariance: Tensor, method: FactorMethod) -> _Factor:
    """Factor by Cholesky if the matrix is positive definite, else by its eigenvectors."""
    # A feature that never varies (a dead ReLU channel) makes the matrix singular and adds nothing.
    varies = covariance.diagonal() > 0
    core = covariance[varies][:, varies]
    rows, inverse = (
        covariance.new_zeros(len(core), len(covariance)),
        covariance.new_zeros(len(covariance), len(core)),
    )
    if method in {"auto", "cholesky"}:
        lower, info = torch.linalg.cholesky_ex(core)
        if int(info) == 0:
            rows[:, varies] = lower.mT
            inverse[varies] = torch.linalg.solve_triangular(
                lower.mT, torch.eye(len(core)).to(core), upper=True
            )
            return _Factor(rows, inverse)
        if method == "cholesky":
            raise ValueError(
                "the covariance is singular: Cholesky needs more samples than features; use method='auto'"
            )
    eigenvalues, eigenvectors = torch.linalg.eigh(core)
    # Below this, eigenvalues are rounding noise, and their square roots would be far above it.
    cut_off = len(core) * torch.finfo(torch.float64).eps * eigenvalues[-1:].clamp(min=0)
    kept = torch.where(eigenvalues > cut_off, eigenvalues, torch.zeros_like(eigenvalues))
    rows[:, varies] = kept.sqrt()[:, None] * eigenvectors.mT
    inverse[varies] = eigenvectors * torch.where(kept > 0, kept.rsqrt(), kept)
    return _Factor(rows, inverse)


def _distance(mean_shift: Tensor, traces: Tensor, singular_values: Tensor) -> float:
    # Zero is the least value; rounding alone may fall below it.
    return max(0.0, float(mean_shift.square().sum() + traces - 2 * singular_values.sum()))


def _mean(features: Tensor) -> Tensor:
    """Return the float64 mean, [D], by blocks around the first row (a large offset costs no digits)."""
    origin = features[0].double().cpu()
    total = torch.zeros_like(origin)
    for block in features.split(_BLOCK):
        total += (block.double().cpu() - origin).sum(dim=0)
    return origin + total / len(features)


def _check(features: Tensor, name: str) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} must be [N >= 2, D], got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        bad_row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0])
        raise ValueError(f"{name} hold NaN or infinity, first in row {bad_row}; extract that image again")


def _check_widths(real_width: int, synthetic_width: int) -> None:
    if real_width != synthetic_width:
        raise ValueError(
            f"feature dimensions differ: real {real_width}, synthetic {synthetic_width}; "
            "were both sets encoded by the same extractor?"
        )
