"""Frechet distance between two sets of image features (Heusel et al. 2017, eq. 6).

FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2

Works on features, never on images: FID, FD-DINOv2 and FD-MedCLIP are this one function on the features of
different extractors. Nothing here takes a matrix square root. With any factors F1, F2 such that S = F^T F,
the last trace is the nuclear norm (sum of singular values) of F1 F2^T, also when S1 or S2 is singular. The
factor of a small set is its centred rows; the factor of a large one is the Cholesky (or, if singular, the
eigen-) factor of its covariance.

Shapes: N samples of one set, D feature width, R rows of a factor, K common rank.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medgen_metrics.feature_checks import check_features, check_widths
from medgen_metrics.feature_statistics import FeatureStatistics, fit_statistics, symmetric_product
from medgen_metrics.intervals import Estimate, normal_estimate

__all__ = [
    "FactorMethod",
    "FeatureStatistics",
    "FrechetInfluence",
    "fit_statistics",
    "frechet_distance",
    "frechet_distance_of_statistics",
    "frechet_estimate",
    "frechet_influence",
]

FactorMethod = Literal["auto", "rows", "cholesky", "eigh"]
_BLOCK = 1024
# Up to this many singular values are found directly: to the last digits, in milliseconds.
_DIRECT = 256
# A nuclear norm from eigenvalues is taken if rounding is not expected to move it by more than this, relatively;
# errors have random signs, and those measured were a thousandth of it.
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class FrechetInfluence:
    """A distance, and how it moves with each image: one more copy of image i adds about psi_i / N."""

    value: float
    real: Tensor  # psi, [N1] float64, mean zero
    synthetic: Tensor  # psi, [N2] float64, mean zero


@dataclass(frozen=True)
class _Factor:
    rows: Tensor  # F [R, D] with F^T F = covariance
    # Takes V [R, K] to (x - m)^T F^-T V of every sample x of the set, [N, K].
    coordinates: Callable[[Tensor], Tensor]


def frechet_distance_of_statistics(real: FeatureStatistics, synthetic: FeatureStatistics) -> float:
    """Return the squared Frechet distance between two fitted Gaussians; lower is better.

    Biased upwards for small sets, so compare only scores with equal `num_samples`.

    Raises:
        ValueError: If the two feature dimensions differ.
    """
    check_widths(len(real.mean), len(synthetic.mean))
    product = (
        _covariance_rows(real.covariance, "auto")[0] @ _covariance_rows(synthetic.covariance, "auto")[0].T
    )
    traces = real.covariance.trace() + synthetic.covariance.trace()
    return _distance(real.mean - synthetic.mean, traces, _nuclear_norm(product))


def frechet_distance(real: Tensor, synthetic: Tensor, *, method: FactorMethod = "auto") -> float:
    """Return the squared Frechet distance between two feature sets; lower is better.

    Args:
        real: Features of the real images, [N1 >= 2, D], left unchanged.
        synthetic: Features of the synthetic images, [N2 >= 2, D], left unchanged.
        method: Factor of each covariance. "auto": rows if N <= D, else Cholesky, else eigh.

    Raises:
        ValueError: If a set is not [N >= 2, D] or the widths differ.
    """
    check_features(real, "real features", least=2)
    check_features(synthetic, "synthetic features", least=2)
    check_widths(real.shape[1], synthetic.shape[1])
    (real_mean, real_rows), (mean, rows) = (
        _mean_and_rows(features, method) for features in (real, synthetic)
    )
    traces = real_rows.square().sum() + rows.square().sum()
    product = real_rows @ rows.T
    del real_rows, rows  # as large as the product, and not needed beside its decomposition
    return _distance(real_mean - mean, traces, _nuclear_norm(product))


def frechet_estimate(real: Tensor, synthetic: Tensor) -> Estimate:
    """Return the Frechet distance with a standard error and a 95% interval.

    The standard error is the delta method, from `frechet_influence`. The interval covers the expected distance
    *at these set sizes*; when both sets come from one distribution it is conservative.

    Args:
        real: Features of the real images, [N1 >= 2, D].
        synthetic: Features of the synthetic images, [N2 >= 2, D].

    Raises:
        ValueError: If a set is not [N >= 2, D] or the widths differ.
    """
    influence = frechet_influence(real, synthetic)
    variance = influence.real.var() / len(real) + influence.synthetic.var() / len(synthetic)
    return normal_estimate(influence.value, math.sqrt(variance), lowest=0.0)


def frechet_influence(real: Tensor, synthetic: Tensor) -> FrechetInfluence:
    """Return the distance with the influence of every image on it.

    psi(x) = 2 (m1 - m2).(x - m1) + |x - m1|^2 - (x - m1)^T T (x - m1) - const

    with T the optimal transport map between the two Gaussians. It needs no second decomposition.

    Args:
        real: Features of the real images, [N1 >= 2, D], left unchanged.
        synthetic: Features of the synthetic images, [N2 >= 2, D], left unchanged.

    Raises:
        ValueError: If a set is not [N >= 2, D] or the widths differ.
    """
    check_features(real, "real features", least=2)
    check_features(synthetic, "synthetic features", least=2)
    check_widths(real.shape[1], synthetic.shape[1])
    (real_mean, real_factor), (mean, factor) = (_mean_and_factor(features) for features in (real, synthetic))
    traces = real_factor.rows.square().sum() + factor.rows.square().sum()
    product = real_factor.rows @ factor.rows.T
    value = _distance(real_mean - mean, traces, _nuclear_norm(product))
    left, singular_values, right = _svd(product)
    # With x - m = F^T z, T acts on z as U diag(s) U^T.
    costs = (
        _squared_sum(real_factor.coordinates(left), singular_values),
        _squared_sum(factor.coordinates(right), singular_values),
    )
    return FrechetInfluence(
        value,
        _influence(real, real_mean, real_mean - mean, costs[0]),
        _influence(synthetic, mean, mean - real_mean, costs[1]),
    )


def _influence(features: Tensor, mean: Tensor, mean_shift: Tensor, transport_cost: Tensor) -> Tensor:
    own_terms = []
    for block in features.split(_BLOCK):
        centred = block.double().cpu() - mean
        own_terms.append(2 * centred @ mean_shift + centred.square().sum(dim=1))
    influence = torch.cat(own_terms) - transport_cost
    return influence - influence.mean()


def _squared_sum(coordinates: Tensor, weights: Tensor) -> Tensor:
    return coordinates.square() @ weights


def _mean_and_rows(features: Tensor, method: FactorMethod) -> tuple[Tensor, Tensor]:
    """Return the mean, [D], and the rows of a factor, [R, D]."""
    if method == "rows" or (method == "auto" and len(features) <= features.shape[1]):
        mean, centred = _centred(features)
        return mean, _without_null_row(centred)
    statistics = fit_statistics(features)
    return statistics.mean, _covariance_rows(statistics.covariance, method)[0]


def _mean_and_factor(features: Tensor) -> tuple[Tensor, _Factor]:
    if len(features) <= features.shape[1]:
        mean, centred = _centred(features)
        return mean, _Factor(_without_null_row(centred), _row_coordinates)
    statistics = fit_statistics(features)
    rows, inverse = _covariance_rows(statistics.covariance, "auto")

    def coordinates(vectors: Tensor) -> Tensor:
        directions = inverse(vectors)  # [D, K]
        parts = [(block.double().cpu() - statistics.mean) @ directions for block in features.split(_BLOCK)]
        return torch.cat(parts)

    return statistics.mean, _Factor(rows, coordinates)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean, [D], and the centred rows over sqrt(N - 1), [N, D], in float64."""
    # A new tensor also for float64 input, which must not be changed.
    centred = features.detach().cpu().to(torch.float64, copy=True)
    origin = centred[0].clone()
    centred -= origin
    offset = centred.mean(dim=0)
    centred -= offset
    centred /= math.sqrt(len(features) - 1)
    return origin + offset, centred


def _without_null_row(centred: Tensor) -> Tensor:
    """Turn N centred rows, which sum to zero, into N - 1 with the same Gram matrix.

    The reflection that takes (1, ..., 1) to the first axis empties the first row. Otherwise a singular value
    that is zero but for rounding would enter the sum.
    """
    return centred[1:] - centred[0] / (math.sqrt(len(centred)) + 1)


def _row_coordinates(vectors: Tensor) -> Tensor:
    """Undo the reflection of `_without_null_row`: samples are sqrt(N - 1) times unit vectors, [N, K]."""
    num_samples = len(vectors) + 1
    total = vectors.sum(dim=0) / math.sqrt(num_samples)
    reflected = torch.cat([-total[None], vectors - total / (math.sqrt(num_samples) + 1)])
    return reflected.mul_(math.sqrt(num_samples - 1))


def _covariance_rows(covariance: Tensor, method: FactorMethod) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Factor by Cholesky if the matrix is positive definite, else by its eigenvectors.

    Returns:
        F [R, D] with F^T F = S, and the map from V [R, K] to F^-1 V, [D, K].
    """
    # A feature that never varies (a dead ReLU channel) makes the matrix singular and adds nothing.
    varies = covariance.diagonal() > 0
    if not varies.all():
        core_rows, core_inverse = _covariance_rows(covariance[varies][:, varies], method)
        rows = covariance.new_zeros(len(core_rows), len(covariance))
        rows[:, varies] = core_rows

        def inverse(vectors: Tensor) -> Tensor:
            directions = vectors.new_zeros(len(covariance), vectors.shape[1])
            directions[varies] = core_inverse(vectors)
            return directions

        return rows, inverse
    if method != "eigh":
        lower, info = torch.linalg.cholesky_ex(covariance)
        if int(info) == 0:
            upper = lower.mT
            return upper, lambda vectors: torch.linalg.solve_triangular(upper, vectors, upper=True)
        if method == "cholesky":
            raise ValueError(
                "the covariance is singular: Cholesky needs more samples than features; use method='auto'"
            )
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    # Below this, eigenvalues are rounding noise, and their square roots would be far above it.
    kept = eigenvalues > len(covariance) * torch.finfo(torch.float64).eps * eigenvalues[-1:].clamp(min=0)
    roots, axes = eigenvalues[kept].sqrt(), eigenvectors[:, kept]
    return roots[:, None] * axes.mT, lambda vectors: axes @ (vectors / roots[:, None])


def _nuclear_norm(product: Tensor) -> Tensor:
    """Return the sum of singular values of P, [R1, R2].

    The eigenvalues of P P^T cost a seventh of the singular values of P, but their roots lose half the digits
    of the small ones. Where that could be seen, the singular values are taken after all.
    """
    if min(product.shape) <= _DIRECT:
        return torch.linalg.svdvals(product).sum()
    eigenvalues = _on_one_thread(torch.linalg.eigvalsh, _gram(product)).clamp_(min=0)
    norm = eigenvalues.sqrt().sum()
    if _rounding_of_roots(eigenvalues) <= _TOLERANCE * norm:
        return norm
    return torch.linalg.svdvals(product).sum()


def _svd(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [R1, K], s [K], V [R2, K] with P = U diag(s) V^T; small s are less exact than their sum above."""
    if min(product.shape) > _DIRECT:
        if product.shape[0] > product.shape[1]:
            right, singular_values, left = _svd(product.T)
            return left, singular_values, right
        eigenvalues, left = torch.linalg.eigh(_gram(product))
        eigenvalues.clamp_(min=0)
        if _rounding_of_roots(eigenvalues) <= _TOLERANCE * eigenvalues.sqrt().sum():
            singular_values = eigenvalues.sqrt()
            scales = torch.where(singular_values > 0, singular_values.reciprocal(), 0.0)
            return left, singular_values, (product.T @ left).mul_(scales)
    left, singular_values, right = torch.linalg.svd(product, full_matrices=False)
    return left, singular_values, right.mT


def _on_one_thread(decomposition: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    """Decompose without threads.

    The reduction to tridiagonal form waits for memory: two threads took twice the time of one.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return decomposition(matrix)
    finally:
        torch.set_num_threads(num_threads)


def _gram(product: Tensor) -> Tensor:
    """Return P P^T or P^T P, whichever is smaller."""
    return symmetric_product(product if product.shape[0] <= product.shape[1] else product.mT)


def _rounding_of_roots(eigenvalues: Tensor) -> Tensor:
    """Estimate how far rounding has moved the sum of roots: each eigenvalue is off by an ulp of the largest."""
    rounding = torch.finfo(torch.float64).eps * eigenvalues[-1]
    return (rounding / (eigenvalues + rounding).sqrt()).sum()


def _distance(mean_shift: Tensor, traces: Tensor, nuclear_norm: Tensor) -> float:
    # Zero is the least value; rounding alone may fall below it.
    return max(0.0, float(mean_shift.square().sum() + traces - 2 * nuclear_norm))
