"""Do automatic scores go with the experts' ranks? Mean score per rank tier, and rank correlations.

Figure 6 of Prompt to Polyp: for each rank from 1 (best), the mean of a score (FBD, Agreement, Diversity) over
everything that got the rank.

Shapes: P prompts, M items, R raters, B bootstrap samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medgen_review.statistics.intervals import Estimate, bootstrap_estimate, draw_resamples
from medgen_review.statistics.tables import Table

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tier:
    """Mean score of all that got one rank."""

    rank: int
    mean: Estimate
    num_judgements: int


@dataclass(frozen=True)
class ScoreTiers:
    """How one score goes with the ranks. Minus one: the best rank goes with the highest score.

    Attributes:
        score: Name.
        tiers: By rank.
        spearman: Mean over prompts of Spearman's rho within each ranking.
        kendall: Same of Kendall's tau-b.
        pooled_spearman: Of all judgements at once; None where it does not exist.
        pooled_kendall: Same of tau-b.
        num_judgements: Ranks that have a score.
        num_without_score: Ranks left out.
    """

    score: str
    tiers: tuple[Tier, ...]
    spearman: Estimate
    kendall: Estimate
    pooled_spearman: float | None
    pooled_kendall: float | None
    num_judgements: int
    num_without_score: int


def score_tiers(table: Table, scores: Mapping[str, Array], *, seed: int) -> tuple[ScoreTiers, ...]:
    """Compare scores with ranks.

    Args:
        table: Ranks.
        scores: By name, [P, M] in the order of the table; nan where an item has none.
        seed: Seed of the bootstrap over prompts.
    """
    weights = draw_resamples(len(table.prompts), 1, seed=seed).prompts
    return tuple(_one_score(name, values, table.values[0], weights) for name, values in scores.items())


def rank_correlations(score: Array, ranks: Array) -> tuple[float, float] | None:
    """Return Spearman's rho and Kendall's tau-b of [N], [N]; None if one of them is constant or N < 2."""
    if len(score) < 2 or np.ptp(score) == 0 or np.ptp(ranks) == 0:
        return None
    return float(stats.spearmanr(score, ranks).statistic), float(stats.kendalltau(score, ranks).statistic)


def _one_score(name: str, score: Array, ranks: Array, weights: Array) -> ScoreTiers:
    num_raters = ranks.shape[-1]
    values = np.repeat(score[:, :, None], num_raters, axis=2)  # [P, M, R]
    judged = np.isfinite(ranks) & np.isfinite(values)
    spearman, kendall = _within_rankings(values, ranks, judged, weights)
    pooled = rank_correlations(values[judged], ranks[judged])
    return ScoreTiers(
        score=name,
        tiers=_tiers(values, np.where(judged, ranks, np.nan), weights),
        spearman=spearman,
        kendall=kendall,
        pooled_spearman=None if pooled is None else pooled[0],
        pooled_kendall=None if pooled is None else pooled[1],
        num_judgements=int(judged.sum()),
        num_without_score=int((np.isfinite(ranks) & ~judged).sum()),
    )


def _within_rankings(
    values: Array, ranks: Array, judged: NDArray[np.bool_], weights: Array
) -> tuple[Estimate, Estimate]:
    means = np.full((len(values), 2), np.nan)
    for prompt, mask in enumerate(judged):  # [M, R]
        each = [
            rank_correlations(values[prompt, mask[:, rater], rater], ranks[prompt, mask[:, rater], rater])
            for rater in range(mask.shape[1])
        ]
        defined = [pair for pair in each if pair is not None]
        if defined:
            means[prompt] = np.mean(defined, axis=0)
    known = np.isfinite(means[:, 0])
    if not known.any():
        nothing = Estimate(None, None, "no ranking has two items that differ in rank and in score")
        return nothing, nothing
    counts = weights @ known
    estimates = []
    for column in means.T:
        sums = weights @ np.where(known, column, 0.0)
        samples = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        estimates.append(bootstrap_estimate(float(column[known].mean()), samples, num_units=int(known.sum())))
    return estimates[0], estimates[1]


def _tiers(values: Array, ranks: Array, weights: Array) -> tuple[Tier, ...]:
    tiers = []
    for rank in np.unique(ranks[np.isfinite(ranks)]):
        chosen = ranks == rank
        counts = chosen.sum(axis=(1, 2)).astype(np.float64)  # [P]
        sums = np.where(chosen, values, 0.0).sum(axis=(1, 2))
        drawn = weights @ counts
        samples = np.divide(weights @ sums, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
        mean = bootstrap_estimate(
            float(sums.sum() / counts.sum()), samples, num_units=int((counts > 0).sum())
        )
        tiers.append(Tier(int(rank), mean, int(counts.sum())))
    return tuple(tiers)
