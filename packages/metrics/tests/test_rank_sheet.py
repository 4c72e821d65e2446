import json
import math
from pathlib import Path

import numpy as np
import pytest
from medgen_metrics.rank_files import RankFileError, RankTable, ScoreTable
from medgen_metrics.rank_sheet import agreement_with_ranks, write_rank_sheet
from medgen_metrics.ranks import rank_agreement

ITEMS = ("a", "b", "c")


def tables(num_prompts: int = 8, *, seed: int = 0) -> tuple[ScoreTable, RankTable, np.ndarray, np.ndarray]:
    """Two raters who mostly follow a metric; returns the tables and the arrays they were made of."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(num_prompts, 3))
    ranks = np.stack(
        [(values + 0.5 * generator.normal(size=values.shape)).argsort(axis=1).argsort(axis=1) for _ in "xy"],
        axis=2,
    )  # [P, M, raters] from 0
    places = [(f"p{prompt}", item) for prompt in range(num_prompts) for item in ITEMS]
    scores = ScoreTable(
        ("fid", "minus"),
        {
            place: {"fid": float(value), "minus": -float(value)}
            for place, value in zip(places, values.ravel(), strict=True)
        },
        "11" * 32,
    )
    given = {
        place: {"x": float(first + 1), "y": float(second + 1)}
        for place, (first, second) in zip(places, ranks.reshape(-1, 2), strict=True)
    }
    return scores, RankTable(given, "22" * 32), values, ranks + 1.0


def test_sheet_is_the_agreement_of_the_arrays(tmp_path: Path) -> None:
    scores, ranks, values, given = tables()
    sheet = agreement_with_ranks(scores, ranks, seed=3)
    repeated = values.repeat(2, axis=1)
    for method in ("spearman", "kendall-b"):
        expected = rank_agreement(repeated, given.reshape(len(values), -1), method=method, seed=3)
        assert sheet.agreements["fid"][method] == expected
    fid, minus = (sheet.agreements[name]["spearman"].correlation.value for name in ("fid", "minus"))
    assert fid == pytest.approx(-minus)
    assert fid > 0.4
    assert (sheet.num_prompts, sheet.num_judgements, sheet.num_raters, sheet.warnings) == (8, 48, 2, ())
    write_rank_sheet(tmp_path / "agreement.json", sheet)
    content = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    assert content == sheet.to_json()
    assert content["metrics"]["fid"]["spearman"]["num_prompts"] == 8
    assert [tier["rank"] for tier in content["metrics"]["fid"]["tiers"]] == [1.0, 2.0, 3.0]
    assert (content["scores_sha256"], content["ranks_sha256"], content["seed"]) == ("11" * 32, "22" * 32, 3)


def test_rows_without_a_partner_and_empty_cells_are_left_out_and_told() -> None:
    scores, ranks, *_ = tables()
    values = {**scores.values, ("p9", "a"): {"fid": 1.0, "minus": -1.0}}
    values["p0", "a"] = {"fid": math.nan, "minus": 0.0}
    given = {**ranks.ranks, ("p7", "z"): {"x": 1.0}}
    sheet = agreement_with_ranks(ScoreTable(scores.metrics, values, "1"), RankTable(given, "2"), seed=0)
    assert sheet.warnings == (
        "1 score(s) have no rank and were left out, e.g. prompt 'p9', item 'a'",
        "1 rank(s) have no score and were left out, e.g. prompt 'p7', item 'z'",
        "fid: 2 judgement(s) have no value and were left out",
    )
    assert sum(tier.num_judgements for tier in sheet.agreements["fid"]["spearman"].tiers) == 46


def test_metric_that_says_nothing_leaves_the_others() -> None:
    scores, ranks, *_ = tables()
    constant = {place: {"fid": row["fid"], "flat": 1.0} for place, row in scores.values.items()}
    sheet = agreement_with_ranks(ScoreTable(("fid", "flat"), constant, "1"), ranks, seed=0)
    assert list(sheet.agreements) == ["fid"]
    assert sheet.not_computed[0].startswith("flat: no prompt has two judgements that differ")
    only_flat = ScoreTable(("flat",), {place: {"flat": 1.0} for place in constant}, "1")
    with pytest.raises(ValueError, match="no metric can be correlated: flat: no prompt"):
        agreement_with_ranks(only_flat, ranks, seed=0)


def test_tables_of_other_prompts_are_refused() -> None:
    scores, ranks, *_ = tables()
    other = {(f"other-{prompt}", item): given for (prompt, item), given in ranks.ranks.items()}
    with pytest.raises(RankFileError, match="have no prompt and item in common"):
        agreement_with_ranks(scores, RankTable(other, "2"), seed=0)
