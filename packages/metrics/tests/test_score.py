import json
import math
from pathlib import Path
from typing import Any

import pytest
from medgen_metrics.score import ExtractorRef, Score, ScoreFileError, ScoreSheet, read_scores, write_scores


def sheet() -> ScoreSheet:
    score = Score(
        name="kid",
        value=-0.1 / 3,
        standard_error=1e-3,
        interval=(-0.04, -0.02),
        num_real=10,
        num_synthetic=12,
        extractor=ExtractorRef("random:0", "ab" * 32),
        preprocessing="bicubic-antialias 64x64",
        estimator="all pairs",
        seed=3,
        warnings=("set sizes differ: 10 real, 12 synthetic",),
    )
    return ScoreSheet((score,), "11" * 32, "22" * 32)


def test_sheet_survives_the_file(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.json", sheet())
    assert read_scores(tmp_path / "scores.json") == sheet()


def test_fields_are_those_of_the_format() -> None:
    (row,) = sheet().to_json()["scores"]
    assert set(row) == {
        *("name", "value", "standard_error", "interval", "num_real", "num_synthetic", "extractor"),
        *("preprocessing", "estimator", "seed", "warnings"),
    }
    assert row["extractor"] == {"id": "random:0", "revision": None, "sha256": "ab" * 32}


def test_sheets_from_before_revisions_were_kept_can_be_read() -> None:
    content = sheet().to_json()
    del content["scores"][0]["extractor"]["revision"]
    assert ScoreSheet.from_json(content) == sheet()


def test_scores_are_found_by_name() -> None:
    assert sheet()["kid"].seed == 3
    with pytest.raises(KeyError, match="no score 'fid'; there are kid"):
        sheet()["fid"]


def test_infinite_values_never_reach_a_file() -> None:
    content = sheet().to_json()
    content["scores"][0]["value"] = math.inf
    with pytest.raises(ValueError, match="'kid' must be finite"):
        ScoreSheet.from_json(content)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("value", "low", r"scores\[0\]\.value: 'low' has the wrong type"),
        ("interval", [1.0], r"scores\[0\]\.interval: expected two numbers"),
        ("num_real", True, r"scores\[0\]\.num_real: True has the wrong type"),
        ("extractor", {"id": "x"}, r"scores\[0\]\.extractor: missing fields \['sha256'\]"),
        ("p_value", 0.1, r"scores\[0\]: missing fields \[\], unknown fields \['p_value'\]"),
    ],
)
def test_wrong_field_is_named(field: str, value: Any, message: str) -> None:
    content = sheet().to_json()
    content["scores"][0][field] = value
    with pytest.raises(ScoreFileError, match=message):
        ScoreSheet.from_json(content)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError, match=r"gone\.json: no such file"):
        read_scores(tmp_path / "gone.json")
    (tmp_path / "broken.json").write_text('{"scores": [')
    with pytest.raises(ScoreFileError, match=r"broken\.json: is not JSON"):
        read_scores(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(ScoreFileError, match=r"list\.json: expected an object with 'scores', got list"):
        read_scores(tmp_path / "list.json")
