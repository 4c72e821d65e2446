from collections.abc import Callable
from typing import Any

import pytest
import torch
from medgen_metrics.frechet import frechet_distance, frechet_distance_of_statistics
from medgen_metrics.kernel import PolynomialKernel, kernel_distance
from medgen_metrics.prdc import prdc
from medgen_metrics.torchmetrics import FrechetDistance, KernelDistance, PrecisionRecallDensityCoverage
from torch import Tensor
from torchmetrics import MetricCollection

Draw = Callable[..., Tensor]


def fill(metric: Any, real: Tensor, synthetic: Tensor, batch_size: int = 16) -> Any:
    for features, is_real in ((real, True), (synthetic, False)):
        for batch in features.split(batch_size):
            metric.update(batch, real=is_real)
    return metric


@pytest.fixture
def sets(gaussian: Draw) -> tuple[Tensor, Tensor]:
    return gaussian(90, 12, seed=0), gaussian(70, 12, seed=1, shift=0.3)


def test_classes_return_what_the_functions_return(sets: tuple[Tensor, Tensor]) -> None:
    frechet = fill(FrechetDistance(12), *sets)
    assert float(frechet.compute()) == pytest.approx(frechet_distance(*sets), rel=1e-10)
    kernel = PolynomialKernel(degree=2)
    kid = fill(KernelDistance(kernel=kernel), *sets)
    assert float(kid.compute()) == kernel_distance(*sets, kernel=kernel).value
    assert kid.estimate() == kernel_distance(*sets, kernel=kernel)
    neighbours = fill(PrecisionRecallDensityCoverage(k=5, rim="<"), *sets)
    expected = prdc(*sets, k=5, rim="<", seed=0)
    for name, value in neighbours.compute().items():
        assert float(value) == getattr(expected, name).value


def test_a_collection_computes_all_of_one_stream(sets: tuple[Tensor, Tensor]) -> None:
    collection = MetricCollection([FrechetDistance(12), KernelDistance(), PrecisionRecallDensityCoverage()])
    results = fill(collection, *sets).compute()
    assert set(results) == {
        *("FrechetDistance", "KernelDistance", "precision", "recall", "f1", "density", "coverage")
    }
    assert float(results["FrechetDistance"]) == pytest.approx(frechet_distance(*sets), rel=1e-10)
    assert float(results["precision"]) == prdc(*sets, seed=0).precision.value


@pytest.mark.parametrize("make", [lambda: FrechetDistance(12), KernelDistance])
def test_parts_merge_to_the_whole(make: Callable, sets: tuple[Tensor, Tensor]) -> None:
    real, synthetic = sets
    first, second = fill(make(), real[:40], synthetic[:65]), fill(make(), real[40:], synthetic[65:])
    whole = fill(make(), real, synthetic).compute()
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(float(whole), rel=1e-9)


def test_states_of_processes_reduce_to_the_whole(sets: tuple[Tensor, Tensor]) -> None:
    # What torchmetrics does in a sync: stack the states of all processes, then reduce.
    real, synthetic = sets
    parts = [fill(FrechetDistance(12), real[i::3], synthetic[i::3]) for i in range(3)]
    idle = FrechetDistance(12)
    joined = FrechetDistance(12)
    for name in ("real_state", "synthetic_state"):
        stacked = torch.stack([getattr(metric, name) for metric in (idle, *parts)])
        setattr(joined, name, joined._reductions[name](stacked))
    joined._update_count = 1
    assert float(joined.compute()) == pytest.approx(frechet_distance(real, synthetic), rel=1e-10)


def test_features_far_from_zero_keep_their_digits(sets: tuple[Tensor, Tensor]) -> None:
    real, synthetic = ((features + 1000).float() for features in sets)
    expected = frechet_distance(real.double() - 1000, synthetic.double() - 1000)
    assert float(fill(FrechetDistance(12), real, synthetic).compute()) == pytest.approx(expected, rel=1e-8)


def test_batches_are_neither_changed_nor_kept(sets: tuple[Tensor, Tensor]) -> None:
    real, synthetic = sets
    buffer = torch.empty(10, 12, dtype=torch.float64)
    metrics = [FrechetDistance(12), KernelDistance()]
    for features, is_real in ((real, True), (synthetic, False)):
        for batch in features.split(10):
            buffer.copy_(batch)
            for metric in metrics:
                metric.update(buffer, real=is_real)
            assert torch.equal(buffer, batch)
    assert float(metrics[0].compute()) == pytest.approx(frechet_distance(real, synthetic), rel=1e-10)
    assert float(metrics[1].compute()) == pytest.approx(kernel_distance(real, synthetic).value, rel=1e-12)


def test_global_randomness_is_neither_used_nor_moved(sets: tuple[Tensor, Tensor]) -> None:
    before = torch.get_rng_state()
    values = [fill(PrecisionRecallDensityCoverage(), *sets).estimates() for _ in range(2)]
    assert values[0] == values[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_reset_and_statistics(sets: tuple[Tensor, Tensor]) -> None:
    metric = fill(FrechetDistance(12), *sets)
    statistics = [metric.statistics(real=real) for real in (True, False)]
    assert frechet_distance_of_statistics(*statistics) == float(metric.compute())
    metric.reset()
    with pytest.raises(ValueError, match="at least two real images, got 0"):
        metric.statistics(real=True)


def test_an_extractor_takes_images() -> None:
    images = torch.randint(0, 256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    metric = FrechetDistance(3, extractor=lambda batch: batch.float().mean(dim=(2, 3)))
    metric.update(images[:20], real=True)
    metric.update(images[20:], real=False)
    features = images.float().mean(dim=(2, 3))
    assert float(metric.compute()) == pytest.approx(frechet_distance(features[:20], features[20:]), rel=1e-9)


def test_errors_say_what_was_expected(sets: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="dim must be at least 1"):
        FrechetDistance(0)
    with pytest.raises(ValueError, match="feature dimensions differ: real 5"):
        FrechetDistance(5).update(sets[0], real=True)
    metric = KernelDistance()
    metric.update(sets[0], real=True)
    with pytest.raises(ValueError, match=r"no synthetic images yet; call update\(..., real=False\) first"):
        metric.compute()
    with pytest.raises(ValueError, match="first in row 0"):
        metric.update(torch.full((2, 12), torch.nan), real=True)
