from collections.abc import Callable

import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.statistics.checks import position_effect, rater_profiles
from medgen_review.statistics.intervals import UndefinedStatisticError, wilson_interval

Rows = Callable[..., list[RatingRow]]


def test_attention_pages_are_counted_per_rater(rating_rows: Rows) -> None:
    first, second, third = rater_profiles(rating_rows(num_attention=4))
    assert (first.attention.value, second.attention.value, third.attention.value) == (1.0, 0.75, 1.0)
    assert second.attention.interval == wilson_interval(3, 4)


def test_profile_counts_first_showings_only(rating_rows: Rows) -> None:
    with_repeats = rater_profiles(rating_rows(num_repeats=3))
    assert [(each.num_ratings, each.num_ranks) for each in with_repeats] == [(36, 24)] * 3
    assert with_repeats[0].attention.value is None


def test_balanced_orders_show_no_effect_and_a_bonus_of_the_first_place_is_found(rating_rows: Rows) -> None:
    rows = rating_rows(num_prompts=30, noise=0.6, steps=(0.0, 1.0, 2.0), seed=5)
    fair = position_effect(rows, seed=0)
    assert fair.p_value is not None
    assert fair.p_value > 0.01
    liked = [
        row.model_copy(update={"value": row.value + 1}) if row.kind == "rating" and row.position == 0 else row
        for row in rows
    ]
    unfair = position_effect(liked, seed=0)
    assert unfair.p_value is not None
    assert unfair.p_value < 1e-6
    means = [estimate.value for estimate in unfair.means]
    assert means[0] == pytest.approx(2 / 3, abs=0.15)


def test_pages_of_one_set_have_no_places(rating_rows: Rows) -> None:
    with pytest.raises(UndefinedStatisticError, match="no places to compare"):
        position_effect(rating_rows(steps=(0.0,)), seed=0)
