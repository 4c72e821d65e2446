from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medgen_metrics.feature_statistics import RunningStatistics, fit_statistics, merge_statistics
from torch import Tensor

Draw = Callable[..., Tensor]


def test_agrees_with_numpy(gaussian: Draw) -> None:
    features = gaussian(5000, 7, seed=0, shift=3.0)
    statistics = fit_statistics(features)
    np.testing.assert_allclose(statistics.mean.numpy(), features.numpy().mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        statistics.covariance.numpy(), np.cov(features.numpy(), rowvar=False), rtol=1e-10, atol=1e-14
    )
    assert statistics.num_samples == 5000


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= 2))
@settings(max_examples=20, deadline=None, database=None)
def test_batches_of_a_stream_do_not_show_in_a_single_bit(sizes: list[int]) -> None:
    features = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0))
    running = RunningStatistics(3)
    for batch in features.split(sizes):
        running.update(batch)
    whole = fit_statistics(features)
    assert torch.equal(running.statistics().mean, whole.mean)
    assert torch.equal(running.statistics().covariance, whole.covariance)


def test_asking_in_between_changes_nothing(gaussian: Draw) -> None:
    features = gaussian(5000, 4, seed=0)
    running = RunningStatistics(4)
    for batch in features.split(700):
        running.update(batch)
        running.statistics()
    assert torch.equal(running.statistics().covariance, fit_statistics(features).covariance)


def test_merging_equals_one_stream(gaussian: Draw) -> None:
    features = gaussian(7000, 5, seed=0, shift=100.0)
    expected = fit_statistics(features)
    for cut in (3, 2048, 5000):
        halves = [RunningStatistics(5), RunningStatistics(5)]
        halves[0].update(features[:cut])
        halves[1].update(features[cut:])
        halves[0].merge(halves[1])
        joined = (
            halves[0].statistics(),
            merge_statistics(fit_statistics(features[:cut]), fit_statistics(features[cut:])),
        )
        for statistics in joined:
            assert statistics.num_samples == 7000
            torch.testing.assert_close(statistics.mean, expected.mean, rtol=1e-13, atol=0)
            torch.testing.assert_close(statistics.covariance, expected.covariance, rtol=1e-11, atol=1e-14)
        assert halves[1].num_samples == 7000 - cut


def test_merging_with_an_empty_stream_changes_nothing(gaussian: Draw) -> None:
    features = gaussian(50, 5, seed=0)
    for order in ((features, features[:0]), (features[:0], features)):
        first, second = RunningStatistics(5), RunningStatistics(5)
        first.update(order[0])
        second.update(order[1])
        first.merge(second)
        torch.testing.assert_close(first.statistics().covariance, fit_statistics(features).covariance)


def test_features_far_from_zero_keep_their_digits(gaussian: Draw) -> None:
    # In one pass, sum of squares minus squared sum, nothing but rounding is left of the covariance at 1e8.
    features = gaussian(4000, 3, seed=0)
    far = features + 1e8
    expected = fit_statistics(far - 1e8).covariance
    # A mean of 1e8 itself is known to 1e-8.
    torch.testing.assert_close(fit_statistics(far).covariance, expected, rtol=0, atol=1e-9)


def test_a_callers_buffer_may_be_filled_again(gaussian: Draw) -> None:
    features = gaussian(30, 4, seed=0)
    buffer, running = torch.empty(10, 4, dtype=torch.float64), RunningStatistics(4)
    for batch in features.split(10):
        buffer.copy_(batch)
        running.update(buffer)
        assert torch.equal(buffer, batch)
    assert torch.equal(running.statistics().covariance, fit_statistics(features).covariance)


def test_errors_say_what_was_expected() -> None:
    running = RunningStatistics(3)
    with pytest.raises(ValueError, match="at least two samples, got 0"):
        running.statistics()
    with pytest.raises(ValueError, match="feature dimensions differ: real 3, synthetic 4"):
        running.update(torch.rand(2, 4))
    with pytest.raises(ValueError, match="dim must be at least 1"):
        RunningStatistics(0)
    broken = torch.rand(9000, 3)
    broken[[7, 8000], 1] = torch.nan
    with pytest.raises(ValueError, match=r"first in row 7 \(all such rows: 7, 8000\)"):
        running.update(broken)
    assert running.num_samples == 0
