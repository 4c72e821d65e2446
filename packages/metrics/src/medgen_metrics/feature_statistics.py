"""Mean and covariance of a feature set, from a whole table or from a stream of batches, always in float64.

A one-pass sum of squares loses the covariance of features far from zero. Here sums are taken around an origin,
the mean of the first block, which is near enough to the mean of all that nothing cancels:

    S = sum (x - o)(x - o)^T - N d d^T,  d = mean (x - o)

with S the scatter (sum of squared deviations). Two streams are joined by Chan, Golub and LeVeque (1979), eq. 2.1:

    S = S_a + S_b + n_a n_b / (n_a + n_b) e e^T,  e = m_b - m_a

All of it is torch: a second library with threads of its own would wait for the cores of the first.

Shapes: N images, D feature width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from medgen_metrics.feature_checks import check_features, check_widths

# Rows converted to float64 at a time: 32 MiB at D = 2048.
_BLOCK = 2048
# A symmetric product is formed in this many strips, each from the diagonal on: 9/16 of the work of a whole one.
_STRIPS = 8
# Rows of a D x D table changed at a time.
_ROWS = 128


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
    return running._finish(running._scatter)  # in place: nobody will go on with this stream


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
        self._origin: Tensor | None = None  # set by the first full block
        self._sum = torch.zeros(dim, dtype=torch.float64)  # of the joined samples, around the origin
        # Of the joined samples, around the origin; only its strips from the diagonal on are kept.
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)
        # Samples not yet joined, around the origin once there is one.
        self._block = torch.empty(_BLOCK, dim, dtype=torch.float64)
        self._num_pending = 0

    @classmethod
    def of(cls, statistics: FeatureStatistics) -> "RunningStatistics":
        """Continue from fitted statistics; they are left unchanged."""
        running = cls(len(statistics.mean))
        running._num_joined = statistics.num_samples
        running._origin = statistics.mean.double().cpu().clone()
        running._scatter = statistics.covariance.double().cpu() * (statistics.num_samples - 1)
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
        self._add(features.detach().cpu())

    def merge(self, other: "RunningStatistics") -> None:
        """Add the samples of another stream, e.g. of another process; `other` is left unchanged.

        Raises:
            ValueError: If the widths differ.
        """
        check_widths(self.dim, other.dim)
        pending = other._block[: other._num_pending]
        self._add(pending if other._origin is None else pending + other._origin)
        if not other._num_joined:
            return
        own_mean, their_mean = self._joined_mean(), other._joined_mean()
        total = self._num_joined + other._num_joined
        shift = their_mean - own_mean
        _subtract_outer(self._scatter, self._sum, self._sum / max(self._num_joined, 1))
        self._scatter += other._scatter
        _subtract_outer(self._scatter, other._sum, other._sum / other._num_joined)
        _subtract_outer(self._scatter, shift, -(self._num_joined * other._num_joined / total) * shift)
        mean = own_mean + shift * (other._num_joined / total)
        if self._origin is not None:  # the samples that wait lie around the old one
            self._block[: self._num_pending] += self._origin - mean
        else:
            self._block[: self._num_pending] -= mean
        self._origin, self._sum, self._num_joined = mean, torch.zeros_like(mean), total

    def statistics(self) -> FeatureStatistics:
        """Return mean and covariance of the samples so far; the stream may go on after it.

        Raises:
            ValueError: If there are fewer than two samples.
        """
        if self.num_samples < 2:
            raise ValueError(f"a covariance needs at least two samples, got {self.num_samples}")
        return self._finish(self._scatter.clone())

    def _add(self, rows: Tensor) -> None:
        start = 0
        while start < len(rows):
            some = rows[start : start + _BLOCK - self._num_pending]
            end = self._num_pending + len(some)
            # Converts on the way: a float32 table never has a float64 copy beside it.
            place = self._block[self._num_pending : end].copy_(some)
            if self._origin is not None:
                place -= self._origin
            self._num_pending = end
            start += len(some)
            if end == _BLOCK:
                self._join_block()

    def _join_block(self) -> None:
        if self._origin is None:
            self._origin = self._block.mean(dim=0)
            self._block -= self._origin
        self._sum += self._block.sum(dim=0)
        _add_products(self._scatter, self._block)
        self._num_joined += _BLOCK
        self._num_pending = 0

    def _joined_mean(self) -> Tensor:
        offset = self._sum / max(self._num_joined, 1)
        return offset if self._origin is None else self._origin + offset

    def _finish(self, scatter: Tensor) -> FeatureStatistics:
        """Join the samples that wait, and scale; changes `scatter` and nothing else."""
        num_samples = self.num_samples
        pending = self._block[: self._num_pending]
        if self._origin is None:
            origin = pending.mean(dim=0)
            pending = pending - origin
        else:
            origin = self._origin
        total = self._sum + pending.sum(dim=0)
        _add_products(scatter, pending)
        _subtract_outer(scatter, total, total / num_samples)
        scatter /= num_samples - 1
        _mirror(scatter)
        return FeatureStatistics(origin + total / num_samples, scatter, num_samples)


def symmetric_product(rows: Tensor) -> Tensor:
    """Return X X^T, [R, R], of X [R, D]."""
    product = rows.new_zeros(len(rows), len(rows))
    _add_products(product, rows.mT)
    _mirror(product)
    return product


def _strips(size: int) -> list[tuple[int, int]]:
    width = max(1, -(-size // _STRIPS))
    return [(start, min(start + width, size)) for start in range(0, size, width)]


def _add_products(table: Tensor, samples: Tensor) -> None:
    """Add X^T X to the strips of a table from the diagonal on, in place."""
    for start, end in _strips(len(table)):
        table[start:end, start:].addmm_(samples[:, start:end].mT, samples[:, start:])


def _mirror(table: Tensor) -> None:
    """Copy what is above the diagonal to below it, in place."""
    for start, end in _strips(len(table)):
        table[end:, start:end] = table[start:end, end:].mT
        corner = table[start:end, start:end]
        corner.copy_(corner.triu() + corner.triu(1).mT)


def _subtract_outer(table: Tensor, column: Tensor, row: Tensor) -> None:
    """Subtract column x row, [D] each, from a table [D, D] in place; no second table is made."""
    for start in range(0, len(table), _ROWS):
        rows = slice(start, start + _ROWS)
        table[rows].addr_(column[rows], row, alpha=-1)
