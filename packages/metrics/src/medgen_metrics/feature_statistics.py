"""Mean and covariance of a feature set, from a whole table or from a stream of batches, always in float64.

A one-pass sum of squares loses the covariance of features far from zero. Here every block is centred at its
own mean, and blocks are joined by Chan, Golub and LeVeque (1979), eq. 2.1:

    S = S_a + S_b + n_a n_b / (n_a + n_b) d d^T,  d = m_b - m_a

with S the scatter (sum of squared deviations). The last term enters as one more row of the block, so it costs
no second D x D table.

Shapes: N images, D feature width.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.feature_checks import check_features, check_widths

# Rows converted to float64 at a time: 32 MiB at D = 2048.
_BLOCK = 2048
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureStatistics:
    """Gaussian fitted to a feature set."""

    mean: Tensor  # [D] float64
    covariance: Tensor  # [D, D] float64, divided by N - 1
    num_samples: int


def fit_statistics(features: Tensor) -> FeatureStatistics:
    """Fit the mean and the unbiased covariance of a feature set, in float64 and around the mean.

    Args:
        features: Features of one image set, [N >= 2, D], any float dtype; left unchanged.

    Returns:
        Statistics in float64: the distance is a small difference of large traces.

    Raises:
        ValueError: If `features` is not 2-D, holds fewer than two samples, or holds NaN or infinity.
    """
    check_features(features, "features", least=2)
    running = RunningStatistics(features.shape[1])
    running.update(features)
    # In place: nobody will go on with this stream.
    block = running._block[: running._num_pending + 1]
    return _finish(running._num_joined, running._mean, running._scatter, block, running._product)


def merge_statistics(first: FeatureStatistics, second: FeatureStatistics) -> FeatureStatistics:
    """Return the statistics of two disjoint sets together; neither set is needed for it.

    Raises:
        ValueError: If the widths differ.
    """
    running = RunningStatistics.of(first)
    running.merge(RunningStatistics.of(second))
    return running.statistics()


class RunningStatistics:
    """Mean and covariance of a stream; holds one D x D table and one block of rows, however long the stream.

    Rows are collected into blocks of a fixed size before they are used, so the result does not depend on how
    the stream was cut into batches, to the last bit.
    """

    def __init__(self, dim: int) -> None:
        """Start with no samples.

        Args:
            dim: Feature width D.

        Raises:
            ValueError: If `dim` is not positive.
        """
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self._num_joined = 0
        self._mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))
        # The row after a block holds the term that joins it to the rest.
        self._block = np.empty((_BLOCK + 1, dim))
        self._product = np.empty(
            (dim, dim)
        )  # written again and again: fresh pages cost as much as the product
        self._num_pending = 0

    @classmethod
    def of(cls, statistics: FeatureStatistics) -> "RunningStatistics":
        """Continue from fitted statistics; they are left unchanged."""
        running = cls(len(statistics.mean))
        running._num_joined = statistics.num_samples
        running._mean = statistics.mean.double().cpu().numpy().copy()
        running._scatter = statistics.covariance.double().cpu().numpy() * (statistics.num_samples - 1)
        return running

    @property
    def num_samples(self) -> int:
        """Number of samples seen."""
        return self._num_joined + self._num_pending

    def update(self, features: Tensor) -> None:
        """Add samples.

        Args:
            features: Features, [B >= 0, D], any float dtype and device; left unchanged.

        Raises:
            ValueError: If the width is not D, or a value is NaN or infinite.
        """
        check_features(features, "features", least=0)
        check_widths(self.dim, features.shape[1])
        start = 0
        while start < len(features):
            rows = features[start : start + _BLOCK - self._num_pending].detach().cpu()
            end = self._num_pending + len(rows)
            # Converts on the way: a float32 table never has a float64 copy beside it.
            torch.from_numpy(self._block[self._num_pending : end]).copy_(rows)
            self._num_pending = end
            start += len(rows)
            if end == _BLOCK:
                self._mean = _join(self._num_joined, self._mean, self._scatter, self._block, self._product)
                self._num_joined += _BLOCK
                self._num_pending = 0

    def merge(self, other: "RunningStatistics") -> None:
        """Add the samples of another stream, e.g. of another process; `other` is left unchanged.

        Raises:
            ValueError: If the widths differ.
        """
        check_widths(self.dim, other.dim)
        self.update(torch.from_numpy(other._block[: other._num_pending]))
        if other._num_joined:
            total = self._num_joined + other._num_joined
            shift = other._mean - self._mean
            self._scatter += other._scatter
            self._scatter += (self._num_joined * other._num_joined / total) * np.outer(shift, shift)
            self._mean = self._mean + shift * (other._num_joined / total)
            self._num_joined = total

    def statistics(self) -> FeatureStatistics:
        """Return mean and covariance of the samples so far; the stream may go on after it.

        Raises:
            ValueError: If there are fewer than two samples.
        """
        if self.num_samples < 2:
            raise ValueError(f"a covariance needs at least two samples, got {self.num_samples}")
        # On copies: the stream goes on with full blocks, as if nobody had asked.
        block = self._block[: self._num_pending + 1].copy()
        return _finish(self._num_joined, self._mean, self._scatter.copy(), block, self._product)


def _finish(num_joined: int, mean: Array, scatter: Array, block: Array, product: Array) -> FeatureStatistics:
    """Join the last block, if it has samples, and scale; works in place."""
    num_samples = num_joined + len(block) - 1
    if len(block) > 1:
        mean = _join(num_joined, mean, scatter, block, product)
    scatter /= num_samples - 1
    return FeatureStatistics(torch.from_numpy(mean.copy()), torch.from_numpy(scatter), num_samples)


def _join(num_joined: int, mean: Array, scatter: Array, block: Array, product: Array) -> Array:
    """Add a block to a scatter, in place, and return the new mean.

    Args:
        num_joined: Samples behind `mean` and `scatter`.
        mean: Their mean, [D].
        scatter: Sum of their squared deviations, [D, D]; changed.
        block: New samples and, below them, one row to write into, [B + 1, D]; changed.
        product: Room for a product, [D, D]; changed.
    """
    size = len(block) - 1
    samples = block[:size]
    own_mean = samples.mean(axis=0)
    samples -= own_mean
    # Again: a mean taken far from zero has lost digits, the mean of what is left has not.
    remainder = samples.mean(axis=0)
    samples -= remainder
    own_mean += remainder
    shift = own_mean - mean
    block[size] = math.sqrt(num_joined * size / (num_joined + size)) * shift
    # numpy sees X^T X as symmetric and does half the work of a general product.
    scatter += np.matmul(block.T, block, out=product)
    return np.asarray(mean + shift * (size / (num_joined + size)))
