import math

import numpy as np
import pytest
from medgen_metrics.intervals import (
    _student_975,
    deviation_estimate,
    mean_estimate,
    normal_estimate,
    proportion_estimate,
    random_halves,
    student_estimate,
    wilson_interval,
)


def test_normal_interval_is_centred_and_cut_at_the_ends_of_the_range() -> None:
    assert normal_estimate(5.0, 1.0).interval == pytest.approx((3.04003602, 6.95996398))
    assert normal_estimate(0.5, 1.0, lowest=0.0, highest=1.0).interval == (0.0, 1.0)


def test_wilson_interval_solves_its_defining_equation() -> None:
    # Both ends p satisfy |share - p| = z sqrt(p (1 - p) / n).
    for end in wilson_interval(17, 60):
        assert abs(17 / 60 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 60))


@pytest.mark.parametrize(("num_hits", "expected"), [(0, (0.0, 0.16113)), (20, (0.83887, 1.0))])
def test_wilson_interval_has_a_width_where_all_trials_agree(
    num_hits: int, expected: tuple[float, float]
) -> None:
    assert wilson_interval(num_hits, 20) == pytest.approx(expected, abs=1e-5)


def test_wilson_refuses_more_hits_than_trials() -> None:
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson_interval(3, 2)


def test_proportion_takes_the_wider_of_both_intervals_at_each_end() -> None:
    wide = proportion_estimate(30, 60, standard_error=0.2)
    narrow = proportion_estimate(30, 60, standard_error=0.0)
    assert wide.interval == pytest.approx((0.5 - 1.96 * 0.2, 0.5 + 1.96 * 0.2), abs=1e-4)
    assert narrow.interval == wilson_interval(30, 60)


def test_halves_hold_half_the_set_and_repeat_with_the_seed() -> None:
    halves = random_halves(11, 7, np.random.default_rng(3))
    assert halves.shape == (7, 11)
    assert (halves.sum(axis=1) == 6).all()
    np.testing.assert_array_equal(halves, random_halves(11, 7, np.random.default_rng(3)))


def test_spread_of_a_mean_over_halves_is_its_standard_error() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=400)
    halves = random_halves(400, 4000, generator)
    means = np.array([values[half].mean() for half in halves])
    assert means.std(ddof=1) == pytest.approx(values.std(ddof=1) / math.sqrt(400), rel=0.05)


@pytest.mark.parametrize("num_groups", [3, 6, 20])
def test_interval_of_a_mean_over_few_groups_covers_the_truth(num_groups: int) -> None:
    generator = np.random.default_rng(num_groups)
    covered = 0
    for _ in range(300):
        low, high = mean_estimate(generator.normal(size=num_groups), generator, 400).interval
        covered += low <= 0.0 <= high
    # Percentiles alone cover 70% at three groups and 87% at six.
    assert 0.88 * 300 <= covered <= 0.99 * 300


def test_standard_error_of_a_mean_over_groups_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(size=25)
    estimate = mean_estimate(values, np.random.default_rng(1), 20_000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / 5, rel=0.03)


def test_weights_of_groups_count_in_value_and_interval() -> None:
    values, weights = np.array([0.0, 1.0, 1.0]), np.array([4.0, 1.0, 1.0])
    estimate = mean_estimate(values, np.random.default_rng(0), weights=weights, lowest=0.0, highest=1.0)
    assert estimate.value == pytest.approx(1 / 3)
    assert 0.0 <= estimate.interval[0] <= 1 / 3 <= estimate.interval[1] <= 1.0


def test_one_group_says_nothing_and_none_is_refused() -> None:
    generator = np.random.default_rng(0)
    assert mean_estimate(np.array([0.3]), generator, lowest=0.0, highest=1.0).interval == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least one group"):
        mean_estimate(np.array([]), generator)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_quantile_of_student_is_that_of_the_tables(freedom: int, expected: float) -> None:
    assert _student_975(freedom) == pytest.approx(expected, rel=3e-3)


def test_student_interval_covers_the_mean_of_few_draws() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    covered = 0
    for row in draws:
        low, high = student_estimate(row.mean(), row.std(ddof=1) / math.sqrt(5), 4).interval
        covered += low <= 3.0 <= high
    assert covered / len(draws) == pytest.approx(0.95, abs=0.012)
    assert student_estimate(1.2, 1.0, 4, lowest=1.0).interval[0] == 1.0


@pytest.mark.parametrize(("freedom", "low", "high"), [(4, 0.59914, 2.87358), (9, 0.68783, 1.82561)])
def test_interval_of_a_deviation_is_that_of_chi_square(freedom: int, low: float, high: float) -> None:
    # sqrt(freedom / chi2) with the exact quantiles: 11.143287 and 0.484419 for 4, 19.022768 and 2.700389 for 9.
    estimate = deviation_estimate(2.0, freedom)
    assert estimate.interval == pytest.approx((2 * low, 2 * high), rel=0.04)
    assert estimate.standard_error == pytest.approx(2 / math.sqrt(2 * freedom))


def test_deviation_of_nothing_or_one_draw() -> None:
    assert deviation_estimate(0.0, 3).interval == (0.0, 0.0)
    for estimate in (lambda: deviation_estimate(1.0, 0), lambda: student_estimate(1.0, 1.0, 0)):
        with pytest.raises(ValueError, match="freedom must be at least 1, got 0"):
            estimate()
