import numpy as np
import pytest
from medgen_review.statistics.intervals import (
    UndefinedStatisticError,
    bootstrap_estimate,
    draw_resamples,
    percentile_interval,
    wilson_interval,
)
from statsmodels.stats.proportion import proportion_confint


def test_every_resample_draws_as_many_as_there_are() -> None:
    resamples = draw_resamples(40, 12, seed=0)
    assert resamples.prompts.shape == (2000, 40)
    assert np.all(resamples.prompts.sum(axis=1) == 40)
    assert np.all(resamples.raters.sum(axis=1) == 12)


def test_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    first, again, other = (draw_resamples(5, 3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.prompts, again.prompts)
    assert not np.array_equal(first.prompts, other.prompts)


def test_a_single_rater_is_fixed() -> None:
    assert np.all(draw_resamples(5, 1, seed=0).raters == 1)


def test_percentiles_of_a_uniform_grid() -> None:
    assert percentile_interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))


def test_no_interval_where_most_samples_do_not_exist() -> None:
    samples = np.full(100, np.nan)
    samples[:30] = 1.0
    assert percentile_interval(samples) is None
    assert "most bootstrap samples" in bootstrap_estimate(1.0, samples, num_units=9).note


def test_no_interval_from_one_unit() -> None:
    estimate = bootstrap_estimate(3.0, np.full(100, 3.0), num_units=1)
    assert (estimate.value, estimate.interval) == (3.0, None)
    assert estimate.note == "no interval: it needs at least two prompts"


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (499, 1000), (1, 1)])
def test_wilson_agrees_with_statsmodels(successes: int, trials: int) -> None:
    expected = proportion_confint(successes, trials, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-9)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(UndefinedStatisticError, match="share of nothing"):
        wilson_interval(0, 0)
