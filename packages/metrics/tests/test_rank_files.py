import math
from pathlib import Path

import pytest
from medgen_metrics.rank_files import RankFileError, read_rank_table, read_score_table

SCORES = "prompt,item,fid,fidelity\np1,a,1.5,300\np1,b,2.5,\np2,a,1e1,100\n"
RANKS = "prompt,item,rank,rater\np1,a,1,x\np1,a,2,y\np1,b,2,x\np1,b,,y\n"


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(SCORES)
    (tmp_path / "scores.jsonl").write_text(
        '{"prompt": "p1", "item": "a", "fid": 1.5, "fidelity": 300}\n\n'
        '{"prompt": "p1", "item": "b", "fid": 2.5, "fidelity": null}\n'
        '{"prompt": "p2", "item": "a", "fid": 10, "fidelity": 100}\n'
    )
    first, second = (read_score_table(tmp_path / f"scores.{suffix}") for suffix in ("csv", "jsonl"))
    assert first.metrics == second.metrics == ("fid", "fidelity")
    assert first.values["p1", "a"] == second.values["p1", "a"] == {"fid": 1.5, "fidelity": 300.0}
    for table in (first, second):
        assert math.isnan(table.values["p1", "b"]["fidelity"])
    assert read_score_table(tmp_path / "scores.csv", metrics=["fid"]).values["p2", "a"] == {"fid": 10.0}
    (tmp_path / "ranks.csv").write_text(RANKS)
    ranks = read_rank_table(tmp_path / "ranks.csv")
    assert ranks.raters == ("x", "y")
    assert ranks.ranks == {("p1", "a"): {"x": 1.0, "y": 2.0}, ("p1", "b"): {"x": 2.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,fid\np,1", r"has no column item; expected prompt, item, got prompt, fid"),
        ("prompt,item\np,a", r"no column of a metric ; there are prompt, item"),
        ("prompt,item,fid\np,a,good", r"line 2: fid: expected a finite number or an empty cell, got 'good'"),
        ("prompt,item,fid\np,a,inf", r"line 2: fid: expected a finite number"),
        ("prompt,item,fid\np,a,1\np,a,2", r"line 3: prompt 'p' has item 'a' twice"),
        ("prompt,item,fid\np,,2", r"line 2: prompt and item must not be empty, got 'p' and ''"),
        ("prompt,item,fid\np,a", r"line 2: expected 3 cells as in the header"),
        ("prompt,item,fid\np,a,1,2", r"line 2: expected 3 cells as in the header"),
        ("", r"has no column prompt, item; expected prompt, item, got no rows"),
    ],
)
def test_wrong_score_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(RankFileError, match=r"scores\.csv.*" + message):
        read_score_table(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,item\np,a", "has no column rank"),
        ("prompt,item,rank\np,a,0", r"line 2: rank must be 1 \(best\) or more, got 0"),
        ("prompt,item,rank\np,a,1\np,a,2", r"line 3: prompt 'p' has item 'a' ranked twice; name the experts"),
        ("prompt,item,rank,rater\np,a,1,x\np,a,2,x", r"line 3: .* ranked twice by 'x'"),
    ],
)
def test_wrong_rank_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ranks.csv").write_text(text)
    with pytest.raises(RankFileError, match=message):
        read_rank_table(tmp_path / "ranks.csv")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.csv: no such file"):
        read_rank_table(tmp_path / "gone.csv")
    for name, content, message in (
        ("ranks.xlsx", b"", r"expected \.csv or \.jsonl, got \.xlsx"),
        ("ranks.jsonl", b"[1]\n", "line 1: expected an object, got"),
        ("broken.jsonl", b"{\n", "line 1: is not JSON"),
        ("latin.csv", b"prompt,item,rank\n\xe4,a,1\n", "is not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RankFileError, match=message):
            read_rank_table(tmp_path / name)


def test_column_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(SCORES)
    with pytest.raises(
        RankFileError, match="no column of a metric kid; there are prompt, item, fid, fidelity"
    ):
        read_score_table(tmp_path / "scores.csv", metrics=["kid"])
