"""The scores as `torchmetrics.Metric` classes: update, compute, merge, distributed sync, MetricCollection.

    from medgen_metrics.torchmetrics import FrechetDistance

    metric = FrechetDistance(dim=768)
    metric.update(features_of_real_images, real=True)
    metric.update(features_of_synthetic_images, real=False)
    metric.compute()

Batches are features, or images if an extractor is given. They are never changed or kept by reference. This module
is imported by name only: the rest of the package does not wait for torchmetrics.

Shapes: B batch, D feature width, W processes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from medgen_metrics.feature_checks import check_features, check_widths
from medgen_metrics.feature_statistics import FeatureStatistics
from medgen_metrics.frechet import frechet_distance_of_statistics
from medgen_metrics.intervals import Estimate
from medgen_metrics.kernel import KID_KERNEL, PolynomialKernel, kernel_distance
from medgen_metrics.prdc import Prdc, Rim, prdc

Extractor = Callable[[Tensor], Tensor]


class FrechetDistance(Metric):
    """Frechet distance of a stream of features; memory does not grow with the number of images.

    The state of a set is one float64 tensor [D + 2, D]: the count, the mean, the scatter around it. States are
    joined by Chan's formula, so features far from zero lose no digits.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    real_state: Tensor
    synthetic_state: Tensor

    def __init__(self, dim: int, *, extractor: Extractor | None = None, **settings: Any) -> None:
        """Start with no images.

        Args:
            dim: Feature width D.
            extractor: Turns what `update` gets into features, [B, D]; by default it gets features.
            settings: Settings of `torchmetrics.Metric`, e.g. `sync_on_compute`.

        Raises:
            ValueError: If `dim` is not positive.
        """
        super().__init__(**settings)
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self._extractor = extractor
        for name in ("real_state", "synthetic_state"):
            empty = torch.zeros(dim + 2, dim, dtype=torch.float64)
            self.add_state(name, empty, dist_reduce_fx=_joined)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Add a batch of features, [B, D], or of what the extractor takes.

        Args:
            images: The batch, left unchanged.
            real: Whether these are real images.

        Raises:
            ValueError: If features are not [B, D] or not finite.
        """
        features = _features(images, self._extractor)
        check_widths(self.dim, features.shape[1])
        name = "real_state" if real else "synthetic_state"
        setattr(self, name, _joined(torch.stack([getattr(self, name), _state_of(features)])))

    def compute(self) -> Tensor:
        """Return the distance, a float64 scalar.

        Raises:
            ValueError: If a set has fewer than two images.
        """
        sets = [_statistics(state, name) for state, name in self._named_states()]
        return torch.tensor(frechet_distance_of_statistics(*sets), dtype=torch.float64, device=self.device)

    def statistics(self, *, real: bool) -> FeatureStatistics:
        """Return mean and covariance of one set, to be written to a file or compared later."""
        state, name = self._named_states()[0 if real else 1]
        return _statistics(state, name)

    def _named_states(self) -> list[tuple[Tensor, str]]:
        return [(self.real_state, "real"), (self.synthetic_state, "synthetic")]


class _FeatureMetric(Metric):
    """Keeps all features of both sets; processes join theirs before `compute`."""

    is_differentiable = False
    full_state_update = False
    # A list of batches; after a distributed sync one tensor.
    real_features: Any
    synthetic_features: Any

    def __init__(self, *, extractor: Extractor | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._extractor = extractor
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("synthetic_features", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, *, real: bool) -> None:
        """Add a batch of features, [B, D], or of what the extractor takes.

        Args:
            images: The batch, left unchanged.
            real: Whether these are real images.

        Raises:
            ValueError: If features are not [B, D] or not finite.
        """
        # A copy: the caller may fill the same buffer with the next batch.
        features = _features(images, self._extractor).clone()
        (self.real_features if real else self.synthetic_features).append(features)

    def _sets(self) -> tuple[Tensor, Tensor]:
        both = []
        for name, kept in (("real", self.real_features), ("synthetic", self.synthetic_features)):
            parts = [kept] if isinstance(kept, Tensor) else kept
            if not len(parts):
                raise ValueError(f"no {name} images yet; call update(..., real={name == 'real'}) first")
            both.append(torch.cat(parts))
        return both[0], both[1]


class KernelDistance(_FeatureMetric):
    """KID over all pairs, without random subsets."""

    higher_is_better = False

    def __init__(
        self, *, kernel: PolynomialKernel = KID_KERNEL, extractor: Extractor | None = None, **settings: Any
    ) -> None:
        """Start with no images; see `kernel_distance` for the kernel."""
        super().__init__(extractor=extractor, **settings)
        self.kernel = kernel

    def compute(self) -> Tensor:
        """Return the distance, a float64 scalar.

        Raises:
            ValueError: If a set has fewer than three images.
        """
        return torch.tensor(self.estimate().value, dtype=torch.float64, device=self.device)

    def estimate(self) -> Estimate:
        """Return the distance of the images of this process with standard error and interval."""
        return kernel_distance(*self._sets(), kernel=self.kernel)


class PrecisionRecallDensityCoverage(_FeatureMetric):
    """Precision, recall, F1, density and coverage."""

    higher_is_better = True

    def __init__(
        self,
        *,
        k: int = 3,
        rim: Rim = "<=",
        seed: int = 0,
        extractor: Extractor | None = None,
        **settings: Any,
    ) -> None:
        """Start with no images; see `prdc` for the settings."""
        super().__init__(extractor=extractor, **settings)
        self.k, self.rim, self.seed = k, rim, seed

    def compute(self) -> dict[str, Tensor]:
        """Return the values by name, float64 scalars.

        Raises:
            ValueError: If a set has no more than k images.
        """
        values = self.estimates()
        names = ("precision", "recall", "f1", "density", "coverage")
        return {
            name: torch.tensor(getattr(values, name).value, dtype=torch.float64, device=self.device)
            for name in names
        }

    def estimates(self) -> Prdc:
        """Return the values of the images of this process with standard errors and intervals."""
        return prdc(*self._sets(), k=self.k, rim=self.rim, seed=self.seed)


def _features(images: Tensor, extractor: Extractor | None) -> Tensor:
    features = (images if extractor is None else extractor(images)).detach()
    check_features(features, "features")
    return features


def _state_of(features: Tensor) -> Tensor:
    """Return count, mean and scatter of a batch, [D + 2, D] float64."""
    samples = features.to(torch.float64)
    mean = samples.mean(dim=0)
    centred = samples - mean
    count = torch.full_like(mean, len(samples))
    return torch.cat([count[None], mean[None], centred.T @ centred])


def _joined(states: Tensor) -> Tensor:
    """Join the states of several streams, [W, D + 2, D], to one, [D + 2, D] (Chan et al. 1979, eq. 2.1)."""
    joined = states[0].clone()
    for state in states[1:]:
        ours, theirs = joined[0, 0], state[0, 0]
        shift = state[1] - joined[1]
        both = (ours + theirs).clamp(min=1)
        joined[2:] += state[2:]
        joined[2:].addr_(shift, shift * (ours * theirs / both))
        joined[1] += shift * (theirs / both)
        joined[0] += theirs
    return joined


def _statistics(state: Tensor, name: str) -> FeatureStatistics:
    num_samples = int(state[0, 0])
    if num_samples < 2:
        raise ValueError(f"a covariance needs at least two {name} images, got {num_samples}")
    on_cpu = state.cpu()
    return FeatureStatistics(on_cpu[1].clone(), on_cpu[2:] / (num_samples - 1), num_samples)
