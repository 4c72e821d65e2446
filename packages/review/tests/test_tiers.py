from collections.abc import Callable

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.statistics.tables import RANK, Table, rank_table
from medgen_review.statistics.tiers import rank_correlations, score_tiers
from scipy import stats

Rows = Callable[..., list[RatingRow]]


def table_of(ranks: np.ndarray) -> Table:
    prompts, items, raters = (
        tuple(f"{name}{n}" for n in range(size)) for name, size in zip("pmr", ranks.shape, strict=True)
    )
    return Table((RANK,), prompts, items, raters, ranks[None])


def test_score_in_the_order_of_the_ranks_correlates_perfectly() -> None:
    ranks = np.tile(np.array([1.0, 2.0, 3.0])[None, :, None], (5, 1, 2))
    fbd = np.tile(np.array([10.0, 20.0, 60.0]), (5, 1))
    (found,) = score_tiers(table_of(ranks), {"fbd": fbd}, seed=0)
    assert (found.spearman.value, found.kendall.value) == pytest.approx((1.0, 1.0))
    assert [(tier.rank, tier.mean.value, tier.num_judgements) for tier in found.tiers] == [
        (1, 10.0, 10),
        (2, 20.0, 10),
        (3, 60.0, 10),
    ]
    assert found.tiers[0].mean.interval == (10.0, 10.0)


def test_tiers_and_correlations_by_hand_with_gaps_and_ties() -> None:
    generator = np.random.default_rng(0)
    ranks = generator.integers(1, 4, (6, 4, 2)).astype(np.float64)
    ranks[0, 1, 0] = np.nan
    score = generator.normal(size=(6, 4)).round(1)
    score[2, 3] = np.nan
    (found,) = score_tiers(table_of(ranks), {"agreement": score}, seed=0)
    flat_rank, flat_score = ranks.ravel(), np.repeat(score, 2, axis=1).ravel()
    known = np.isfinite(flat_rank) & np.isfinite(flat_score)
    for tier in found.tiers:
        chosen = known & (flat_rank == tier.rank)
        assert tier.mean.value == pytest.approx(flat_score[chosen].mean(), abs=1e-12)
    assert found.pooled_spearman == pytest.approx(
        stats.pearsonr(stats.rankdata(flat_score[known]), stats.rankdata(flat_rank[known])).statistic,
        abs=1e-9,
    )
    assert found.pooled_kendall == pytest.approx(
        stats.somersd(flat_rank[known], flat_score[known]).statistic
        * (stats.somersd(flat_score[known], flat_rank[known]).statistic)
        / stats.kendalltau(flat_rank[known], flat_score[known]).statistic,
        abs=1e-9,
    )  # tau-b is the geometric mean of Somers' two d
    assert (found.num_judgements, found.num_without_score) == (int(known.sum()), 2)
    means = []
    for prompt in range(6):
        each = []
        for rater in range(2):
            mask = np.isfinite(ranks[prompt, :, rater]) & np.isfinite(score[prompt])
            if np.ptp(ranks[prompt, mask, rater]) > 0:
                each.append(stats.spearmanr(score[prompt, mask], ranks[prompt, mask, rater]).statistic)
        means.append(np.mean(each))
    assert found.spearman.value == pytest.approx(np.mean(means), abs=1e-9)


def test_score_that_is_one_for_all_says_nothing(rating_rows: Rows) -> None:
    table = rank_table(rating_rows())
    (found,) = score_tiers(table, {"flat": np.ones((6, 4))}, seed=0)
    assert (found.spearman.value, found.pooled_kendall) == (None, None)
    assert found.spearman.note == "no ranking has two items that differ in rank and in score"


def test_correlation_of_fewer_than_two_does_not_exist() -> None:
    assert rank_correlations(np.array([1.0]), np.array([1.0])) is None


def test_intervals_widen_with_fewer_prompts() -> None:
    generator = np.random.default_rng(3)
    widths = []
    for num_prompts in (10, 160):
        ranks = np.argsort(generator.normal(size=(num_prompts, 4, 1)), axis=1) + 1.0
        (found,) = score_tiers(table_of(ranks), {"s": generator.normal(size=(num_prompts, 4))}, seed=0)
        assert found.spearman.interval is not None
        widths.append(found.spearman.interval[1] - found.spearman.interval[0])
    assert 2 < widths[0] / widths[1] < 8  # four, by the root of sixteen
