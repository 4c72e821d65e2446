import json
from pathlib import Path

import pytest
from medgen_data.captions import CaptionRow, read_captions
from medgen_data.problems import DataError


def row(record_id: str, **change: object) -> dict[str, object]:
    return {
        "record_id": record_id,
        "text": "a polyp",
        "method": "simple",
        "revision": "1",
        "seed": 0,
        **change,
    }


def write(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def test_captions_come_by_record_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.jsonl", [row("b", text="é\u2028x", checks=["words"]), row("a", text="", model="m")]
    )
    captions = read_captions(file)
    assert list(captions) == ["b", "a"]
    assert captions["b"].checks == ("words",)
    assert captions["b"].text == "é\u2028x"  # a line separator in a string ends no row
    assert captions["a"] == CaptionRow(
        record_id="a", text="", method="simple", model="m", revision="1", seed=0
    )


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row("a"), row("a")], "line 2, field record_id: a is captioned twice, first in line 1"),
        ([row("a"), row("b", seed="x")], "line 2, field seed: .*got 'x'"),
        ([row("a", note=1)], "line 1, field note: Extra inputs"),
        ([{"record_id": "a"}], "line 1, field text: Field required"),
    ],
)
def test_malformed_captions_are_refused_with_line_and_field(
    tmp_path: Path, rows: list[dict[str, object]], reason: str
) -> None:
    with pytest.raises(DataError, match=rf"c\.jsonl, {reason}"):
        read_captions(write(tmp_path / "c.jsonl", rows))


def test_missing_file_and_list_instead_of_object_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.jsonl is missing; check"):
        read_captions(tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match="line 1 must be a JSON object, got list"):
        read_captions(tmp_path / "c.jsonl")
