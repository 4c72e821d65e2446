import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.score_files import ItemScore, read_score_table, read_scores, scores_of_table
from medgen_review.statistics.tables import rank_table
from medgen_review.study import StudyError

Rows = Callable[..., list[RatingRow]]


def test_scores_json_of_a_model_is_read_without_classes_and_gaps(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    scores = [
        {"name": "fbd", "value": 12.5},
        {"name": "colour/polyps", "value": 1},
        {"name": "kid", "value": None},
    ]
    file.write_text(json.dumps({"scores": scores}))
    assert read_scores("aurora", file) == (ItemScore("aurora", None, "fbd", 12.5),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a scores.json"),
        ('{"scores": [1]}', "not a scores.json"),
        ('{"scores": []}', "holds no score with a value"),
        ('{"scores": [{"name": "fbd", "value": NaN}]}', "holds no score with a value"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "scores.json"
    file.write_text(text)
    with pytest.raises(StudyError, match=rf"scores\.json: {message}"):
        read_scores("aurora", file)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"none\.json: cannot be read .*; give the scores.json of aurora"):
        read_scores("aurora", tmp_path / "none.json")


def test_table_by_prompt_is_read_with_empty_cells(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("prompt,item,agreement,diversity\np0,aurora,0.5,\np1,aurora,,0.25\n")
    assert read_score_table(file) == (
        ItemScore("aurora", "p0", "agreement", 0.5),
        ItemScore("aurora", "p1", "diversity", 0.25),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,agreement\n", "expected the columns prompt, item and one per score, got prompt, agreement"),
        ("prompt,item\n", "one per score"),
        ("prompt,item,a\np0,x,high\n", "line 2: a must be a number or empty, got 'high'"),
        ("prompt,item,a\np0,x,inf\n", "got 'inf'"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(text)
    with pytest.raises(StudyError, match=message):
        read_score_table(file)


def test_value_of_a_prompt_goes_before_that_of_the_model(rating_rows: Rows) -> None:
    table = rank_table(rating_rows())
    scores = [
        ItemScore("model-0", "p01", "agreement", 9.0),
        ItemScore("model-0", None, "agreement", 1.0),
        ItemScore("model-1", None, "agreement", 2.0),
        ItemScore("model-1", "p99", "agreement", 3.0),
        ItemScore("model-1", None, "lonely", 3.0),
    ]
    arranged, warnings = scores_of_table(table, scores)
    assert list(arranged) == ["agreement"]
    assert arranged["agreement"][:, 0].tolist() == [1.0, 9.0, 1.0, 1.0, 1.0, 1.0]
    assert np.isnan(arranged["agreement"][:, 2:]).all()
    assert any("1 prompt(s) that nobody ranked" in warning for warning in warnings)
    assert any("'lonely' is known of one model only" in warning for warning in warnings)


def test_score_of_an_unknown_model_is_refused(rating_rows: Rows) -> None:
    with pytest.raises(StudyError, match=r"of 'flux', which was not ranked; ranked were model-0, .*real"):
        scores_of_table(rank_table(rating_rows()), [ItemScore("flux", None, "fbd", 1.0)])
