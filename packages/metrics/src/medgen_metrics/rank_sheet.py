"""Scores and expert ranks, joined by prompt and item -> how every metric agrees with the experts."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen_metrics.atomic import write_atomic
from medgen_metrics.intervals import Estimate
from medgen_metrics.rank_files import Place, RankFileError, RankTable, ScoreTable
from medgen_metrics.ranks import CorrelationMethod, RankAgreement, rank_agreement

_METHODS: tuple[CorrelationMethod, ...] = ("spearman", "kendall-b")


@dataclass(frozen=True)
class RankSheet:
    """How each metric agrees with the experts, by each method of correlation."""

    agreements: Mapping[str, Mapping[CorrelationMethod, RankAgreement]]  # by metric
    not_computed: tuple[str, ...]  # "metric: reason"
    num_prompts: int
    num_judgements: int
    num_raters: int
    scores_sha256: str
    ranks_sha256: str
    seed: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the sheet as a JSON object; what a single prompt cannot tell is null."""
        return {
            "metrics": {name: self._metric(agreement) for name, agreement in self.agreements.items()},
            "not_computed": list(self.not_computed),
            "num_prompts": self.num_prompts,
            "num_judgements": self.num_judgements,
            "num_raters": self.num_raters,
            "scores_sha256": self.scores_sha256,
            "ranks_sha256": self.ranks_sha256,
            "estimator": "mean over prompts of the correlation within each; bootstrap over prompts",
            "seed": self.seed,
            "warnings": list(self.warnings),
        }

    @staticmethod
    def _metric(agreements: Mapping[CorrelationMethod, RankAgreement]) -> dict[str, Any]:
        by_method: dict[str, Any] = {
            method: {
                **_estimate_json(agreement.correlation),
                "pooled": _finite(agreement.pooled),
                "num_prompts": agreement.num_prompts - agreement.num_undefined,
                "num_undefined": agreement.num_undefined,
            }
            for method, agreement in agreements.items()
        }
        tiers = [
            {"rank": tier.rank, "num_judgements": tier.num_judgements, **_estimate_json(tier.mean)}
            for tier in next(iter(agreements.values())).tiers
        ]
        return {**by_method, "tiers": tiers}


def agreement_with_ranks(scores: ScoreTable, ranks: RankTable, *, seed: int) -> RankSheet:
    """Correlate every metric with the ranks, prompt by prompt.

    Args:
        scores: The metrics.
        ranks: The experts; each rater of an item is a judgement of its own.
        seed: Seed of the bootstrap over prompts.

    Raises:
        ValueError: If scores and ranks share no prompt and item, or not one metric can be correlated.
    """
    shared = sorted(scores.values.keys() & {place for place, given in ranks.ranks.items() if given})
    if not shared:
        raise RankFileError(
            "scores and ranks have no prompt and item in common; compare the columns `prompt` and `item`"
        )
    prompts = {prompt: row for row, prompt in enumerate(sorted({prompt for prompt, _ in shared}))}
    items = sorted({item for _, item in shared})
    columns = {pair: n for n, pair in enumerate((item, rater) for item in items for rater in ranks.raters)}
    given = np.full((len(prompts), len(columns)), np.nan)
    tables = {metric: given.copy() for metric in scores.metrics}
    for prompt, item in shared:
        for rater, rank in ranks.ranks[prompt, item].items():
            place = prompts[prompt], columns[item, rater]
            given[place] = rank
            for metric, table in tables.items():
                table[place] = scores.values[prompt, item][metric]
    agreements: dict[str, dict[CorrelationMethod, RankAgreement]] = {}
    not_computed = []
    for metric, table in tables.items():
        try:
            agreements[metric] = {
                method: rank_agreement(table, given, method=method, seed=seed) for method in _METHODS
            }
        except ValueError as error:
            not_computed.append(f"{metric}: {error}")
    if not agreements:
        raise ValueError(f"no metric can be correlated: {'; '.join(not_computed)}")
    return RankSheet(
        agreements=agreements,
        not_computed=tuple(not_computed),
        num_prompts=len(prompts),
        num_judgements=int(np.isfinite(given).sum()),
        num_raters=len(ranks.raters),
        scores_sha256=scores.sha256,
        ranks_sha256=ranks.sha256,
        seed=seed,
        warnings=_warnings(scores, ranks, tables, given, set(shared)),
    )


def write_rank_sheet(sheet_file: Path, sheet: RankSheet) -> None:
    """Write the agreement with experts as JSON, atomically."""
    text = json.dumps(sheet.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(sheet_file, f"{text}\n".encode())


def _warnings(
    scores: ScoreTable,
    ranks: RankTable,
    tables: Mapping[str, NDArray[np.float64]],
    given: NDArray[np.float64],
    shared: set[Place],
) -> tuple[str, ...]:
    warnings = []
    for name, places, other in (
        ("score", scores.values.keys(), "rank"),
        ("rank", ranks.ranks.keys(), "score"),
    ):
        alone = sorted(set(places) - shared)
        if alone:
            prompt, item = alone[0]
            warnings.append(
                f"{len(alone)} {name}(s) have no {other} and were left out, e.g. prompt {prompt!r}, item {item!r}"
            )
    for metric, table in tables.items():
        num_missing = int((np.isfinite(given) & ~np.isfinite(table)).sum())
        if num_missing:
            warnings.append(f"{metric}: {num_missing} judgement(s) have no value and were left out")
    return tuple(warnings)


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "standard_error": _finite(estimate.standard_error),
        "interval": [_finite(end) for end in estimate.interval],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
