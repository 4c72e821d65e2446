import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from medgen_metrics.ranks import average_ranks, kendall_tau_b, rank_agreement, spearman_correlation


def tau_b_by_pairs(x: np.ndarray, y: np.ndarray) -> float:
    concordant = discordant = only_x = only_y = 0
    for i, j in combinations(range(len(x)), 2):
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        concordant += a * b > 0
        discordant += a * b < 0
        only_x += a == 0 != b
        only_y += b == 0 != a
    pairs = concordant + discordant
    return (concordant - discordant) / math.sqrt((pairs + only_x) * (pairs + only_y))


def tied_lists(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 6, 40).astype(float)
    return first, np.round(first / 2 + generator.normal(size=40), 1)


def test_equal_values_share_their_rank() -> None:
    np.testing.assert_array_equal(average_ranks([3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0])


def test_spearman_without_ties_is_the_textbook_formula() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.permutation(12), generator.permutation(12)
    expected = 1 - 6 * np.square(x - y).sum() / (12 * (144 - 1))
    assert spearman_correlation(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_kendall_is_the_count_of_pairs(seed: int) -> None:
    x, y = tied_lists(seed)
    assert kendall_tau_b(x, y) == pytest.approx(tau_b_by_pairs(x, y), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_both_agree_with_scipy(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = tied_lists(seed)
    assert spearman_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-12)
    assert kendall_tau_b(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, rel=1e-12)


@pytest.mark.parametrize("correlate", [spearman_correlation, kendall_tau_b])
def test_only_the_order_counts(correlate: Callable[..., float]) -> None:
    x, y = tied_lists(7)
    value = correlate(x, y)
    assert correlate(np.exp(x), 3 * y + 1) == pytest.approx(value)
    assert correlate(x, -y) == pytest.approx(-value)
    assert correlate(y, x) == pytest.approx(value)
    assert correlate(x, x) == pytest.approx(1.0)
    assert math.isnan(correlate(x, np.ones(40)))


def test_agreement_is_the_mean_over_prompts_with_an_interval() -> None:
    generator = np.random.default_rng(0)
    ranks = np.array([generator.permutation(4) + 1 for _ in range(20)], dtype=float)
    values = 100 * ranks + generator.normal(size=ranks.shape) * 120
    agreement = rank_agreement(values, ranks, method="kendall-b", seed=0)
    expected = np.mean([kendall_tau_b(v, r) for v, r in zip(values, ranks, strict=True)])
    assert agreement.correlation.value == pytest.approx(expected)
    assert 0.3 < agreement.correlation.interval[0] < expected < agreement.correlation.interval[1] < 1.0
    assert agreement.pooled == pytest.approx(kendall_tau_b(values.ravel(), ranks.ravel()))
    assert [tier.rank for tier in agreement.tiers] == [1.0, 2.0, 3.0, 4.0]
    for tier in agreement.tiers:
        assert tier.mean.value == pytest.approx(values[ranks == tier.rank].mean())
        assert tier.num_judgements == 20
    assert agreement == rank_agreement(values, ranks, method="kendall-b", seed=0)


def test_missing_judgements_and_silent_prompts_are_left_out_and_counted() -> None:
    values = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [3.0, np.nan, 9.0]])
    ranks = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0]])
    agreement = rank_agreement(values, ranks, seed=0)
    assert agreement.correlation.value == pytest.approx(1.0)
    assert (agreement.num_prompts, agreement.num_undefined) == (3, 1)
    assert [tier.num_judgements for tier in agreement.tiers] == [2, 3, 3]


def test_random_ranks_agree_with_nothing() -> None:
    generator = np.random.default_rng(3)
    ranks = np.array([generator.permutation(4) + 1 for _ in range(200)], dtype=float)
    low, high = rank_agreement(generator.normal(size=(200, 4)), ranks, seed=0).correlation.interval
    assert low < 0 < high
    assert high - low < 0.5


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"one length, at least 2, got \(3,\) and \(2,\)"):
        kendall_tau_b([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="NaN is not defined"):
        spearman_correlation([1, 2, math.nan], [1, 2, 3])
    with pytest.raises(ValueError, match=r"one shape \[num_prompts, num_ranked\], got \(2, 3\) and \(3, 2\)"):
        rank_agreement(np.ones((2, 3)), np.ones((3, 2)), seed=0)
    with pytest.raises(ValueError, match="nothing to correlate"):
        rank_agreement(np.ones((2, 3)), np.ones((2, 3)), seed=0)
    with pytest.raises(ValueError, match="method must be one of spearman, kendall-b"):
        rank_agreement(np.eye(3), np.eye(3), method="pearson", seed=0)  # type: ignore[arg-type]
