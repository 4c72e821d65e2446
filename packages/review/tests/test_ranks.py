from collections.abc import Callable

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.statistics.intervals import UndefinedStatisticError
from medgen_review.statistics.ranks import rank_concordance, rank_summaries
from medgen_review.statistics.tables import RANK, Table, rank_table

Rows = Callable[..., list[RatingRow]]


def table_of(values: np.ndarray) -> Table:
    prompts, items, raters = (
        tuple(f"{name}{n}" for n in range(size)) for name, size in zip("pmr", values.shape, strict=True)
    )
    return Table((RANK,), prompts, items, raters, values[None])


def test_summary_counts_ranks(rating_rows: Rows) -> None:
    summaries = {each.item: each for each in rank_summaries(rank_table(rating_rows()), seed=0)}
    assert summaries["real"].counts == (18, 0, 0, 0)
    assert (summaries["real"].mean_rank.value, summaries["real"].first.value) == (1.0, 1.0)
    assert all(sum(each.counts) == 18 for each in summaries.values())
    best, worst = summaries["model-2"].mean_rank.value, summaries["model-0"].mean_rank.value
    assert best is not None
    assert worst is not None
    assert best < worst


def test_concordance_is_one_where_raters_rank_alike_and_lower_where_not() -> None:
    alike = np.tile(np.array([1.0, 2.0, 3.0])[None, :, None], (4, 1, 5))
    assert rank_concordance(table_of(alike), seed=0).value == pytest.approx(1.0)
    opposed = np.stack([alike[:, :, 0], alike[:, ::-1, 0]], axis=2)
    assert rank_concordance(table_of(opposed), seed=0).value == pytest.approx(0.0)


def test_concordance_of_kendall_with_ties_by_its_own_formula() -> None:
    ranks = np.array(
        [[1.0, 2.5, 2.5, 4.0], [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.5, 3.5]]
    )  # [m raters, n items]
    m, n = ranks.shape
    deviation = ranks.sum(axis=0) - m * (n + 1) / 2
    ties = 2 * (2**3 - 2)
    expected = 12 * (deviation**2).sum() / (m**2 * (n**3 - n) - m * ties)
    assert rank_concordance(table_of(ranks.T[None]), seed=0).value == pytest.approx(expected, abs=1e-9)


def test_concordance_of_one_rater_does_not_exist() -> None:
    with pytest.raises(UndefinedStatisticError, match="one rater"):
        rank_concordance(table_of(np.ones((3, 2, 1))), seed=0)
