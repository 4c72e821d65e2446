from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.statistics.intervals import draw_resamples
from medgen_review.statistics.means import (
    OVERALL,
    crossed_mean,
    mean_differences,
    model_means,
    rephrasing_differences,
)
from medgen_review.statistics.tables import Table, rating_table

Rows = Callable[..., list[RatingRow]]


def test_means_are_those_of_all_values_and_overall_is_the_mean_of_the_aspects(rating_rows: Rows) -> None:
    rows = rating_rows()
    means = {(each.item, each.aspect): each for each in model_means(rating_table(rows), seed=0)}
    for model in ("model-0", "model-1", "model-2"):
        for aspect in ("realism", "diversity"):
            own = [
                row.value
                for row in rows
                if (row.kind, row.model, row.aspect, row.repeat) == ("rating", model, aspect, 0)
            ]
            found = means[model, aspect]
            assert found.mean.value == pytest.approx(np.mean(own), abs=1e-12)
            assert found.deviation == pytest.approx(np.std(own, ddof=1), abs=1e-12)
            assert found.num_values == len(own) == 18
            assert found.mean.interval is not None
            assert found.mean.interval[0] < np.mean(own) < found.mean.interval[1]
        parts = [means[model, aspect].mean.value or 0.0 for aspect in ("realism", "diversity")]
        assert means[model, OVERALL].mean.value == pytest.approx(np.mean(parts))


def test_weights_draw_what_a_loop_over_prompts_and_raters_would_draw() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    values[1, 2] = np.nan
    resamples = draw_resamples(5, 3, seed=1, num_resamples=200)
    samples: list[float] = []
    for prompts, raters in zip(resamples.prompts.astype(int), resamples.raters.astype(int), strict=True):
        drawn = values[np.repeat(np.arange(5), prompts)][:, np.repeat(np.arange(3), raters)]
        samples.append(float(np.nanmean(drawn)) if np.isfinite(drawn).any() else np.nan)
    expected = np.nanquantile(np.array(samples), np.array([0.025, 0.975]))
    assert crossed_mean(values, resamples).interval == pytest.approx(expected, abs=1e-12)


def test_interval_covers_the_truth_where_prompts_and_raters_scatter() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = (
            generator.normal(0, 1, (30, 1))
            + generator.normal(0, 1, (1, 25))
            + generator.normal(0, 1, (30, 25))
        )
        interval = crossed_mean(values, draw_resamples(30, 25, seed=trial, num_resamples=400)).interval
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    assert 0.88 <= covered / 200 <= 0.99


def test_difference_cancels_a_rater_who_skips_the_better_model() -> None:
    values = np.array([[[[2.0, 8.0], [4.0, np.nan]], [[2.0, 8.0], [4.0, 10.0]]]])  # [1, P, M, R]
    table = Table(("realism",), ("p0", "p1"), ("a", "b"), ("x", "y"), values)
    (found,) = mean_differences(table, seed=0)
    assert (found.difference.value, found.num_pairs) == (-2.0, 3)


def test_one_rater_leaves_the_bootstrap_over_prompts(rating_rows: Rows) -> None:
    for found in model_means(rating_table(rating_rows(num_raters=1)), seed=0):
        assert found.mean.interval is not None


def test_one_value_has_no_interval_and_no_value_has_no_mean() -> None:
    values = np.array([[[[5.0], [np.nan]]]])
    table = Table(("realism",), ("p0",), ("a", "b"), ("x",), values)
    one, _overall, none, _ = model_means(table, seed=0)
    assert (one.mean.value, one.mean.interval, one.deviation) == (5.0, None, None)
    assert "at least two prompts or raters" in one.mean.note
    assert (none.mean.value, none.mean.note) == (None, "no value was given")


def test_rephrasing_costs_what_is_taken_from_rephrased_prompts(rating_rows: Rows) -> None:
    table = rating_table(rating_rows(num_prompts=16, num_raters=4, noise=0.4))
    kinds = {prompt: "rephrased" if int(prompt[1:]) % 2 else "original" for prompt in table.prompts}
    values = table.values.copy()
    values[:, 1::2, 1] -= 2.0  # of the second model
    before = rephrasing_differences(table, kinds, seed=0)
    after = rephrasing_differences(replace(table, values=values), kinds, seed=0)
    expected = np.mean(values[:, 1::2, 1]) - np.mean(values[:, ::2, 1])
    assert after[1].difference.value == pytest.approx(expected, abs=1e-12)
    assert (after[0], after[2]) == (before[0], before[2])
    interval = after[1].difference.interval
    assert interval is not None
    assert interval[0] < expected < interval[1] < 0


def test_prompts_of_one_kind_have_no_difference(rating_rows: Rows) -> None:
    table = rating_table(rating_rows())
    assert rephrasing_differences(table, dict.fromkeys(table.prompts, "original"), seed=0) == ()
    kinds = {prompt: "rephrased" if prompt == "p00" else "original" for prompt in table.prompts}
    found = rephrasing_differences(table, kinds, seed=0)
    assert {each.difference.note for each in found} == {
        "no interval: it needs at least two prompts of each kind"
    }
