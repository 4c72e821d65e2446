"""The global ranking: mean rank of each item, how often it was put first, and whether raters rank alike.

Shapes: P prompts, M items, R raters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgen_review.statistics.friedman import friedman
from medgen_review.statistics.intervals import (
    Estimate,
    UndefinedStatisticError,
    bootstrap_estimate,
    draw_resamples,
    wilson_interval,
)
from medgen_review.statistics.means import crossed_mean
from medgen_review.statistics.tables import Table

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankSummary:
    """Ranks of one item.

    Attributes:
        item: Model, or the real images.
        mean_rank: Over prompts and raters; 1 is best.
        first: Share of rankings that put it on rank 1. Its interval takes rankings for independent.
        counts: How often it got each rank, from 1.
    """

    item: str
    mean_rank: Estimate
    first: Estimate
    counts: tuple[int, ...]


def rank_summaries(table: Table, *, seed: int) -> tuple[RankSummary, ...]:
    """Summarise the ranks of every item.

    Args:
        table: Ranks, as `tables.rank_table` gives them.
        seed: Seed of the bootstrap over prompts and raters.
    """
    if not table.items:
        return ()
    resamples = draw_resamples(len(table.prompts), len(table.raters), seed=seed)
    last = int(np.nanmax(table.values))
    summaries = []
    for column, item in enumerate(table.items):
        ranks = table.values[0, :, column]  # [P, R]
        given = ranks[np.isfinite(ranks)].astype(int)
        counts = np.bincount(given, minlength=last + 1)[1:]
        first = int(counts[0])
        summaries.append(
            RankSummary(
                item,
                crossed_mean(ranks, resamples),
                Estimate(first / len(given), wilson_interval(first, len(given))),
                tuple(int(count) for count in counts),
            )
        )
    return tuple(summaries)


def rank_concordance(table: Table, *, seed: int) -> Estimate:
    """Return Kendall's W of the raters, the mean over prompts: 1 if all rank alike, 0 if there is no tendency.

    W = 12 S / (m^2 (n^3 - n) - m sum (t^3 - t))                     (Kendall & Smith 1939; ties t)

    Args:
        table: Ranks.
        seed: Seed of the bootstrap over prompts.

    Raises:
        UndefinedStatisticError: If no prompt was ranked by two raters.
    """
    if len(table.raters) < 2:
        raise UndefinedStatisticError("one rater: agreement between raters cannot be given")
    found = []
    for ranks in table.values[0]:  # [M, R]
        try:
            found.append(friedman(ranks.T).concordance)
        except UndefinedStatisticError:
            continue
    if not found:
        raise UndefinedStatisticError("no prompt has two whole rankings with different ranks")
    weights = draw_resamples(len(found), 1, seed=seed).prompts
    samples = weights @ np.array(found) / len(found)
    return bootstrap_estimate(float(np.mean(found)), samples, num_units=len(found))
