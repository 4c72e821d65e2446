import json

import pytest
from medgen_data.problems import DataError, Problem, list_briefly
from medgen_data.records import Generation, ImageRecord, attribute
from pydantic import ValidationError


def test_record_survives_json_with_the_types_of_its_facts() -> None:
    record = ImageRecord(
        file_name="images/a.png",
        record_id="a",
        label="polyps",
        group_id="patient 1",
        split="test",
        text=("one", "two"),
        facts={"count": 1, "share": 1.0, "flat": True, "code": "01", "no": False, "zero": 0},
        generation=Generation(
            prompt="a polyp",
            seed=3,
            model_sha256="0" * 64,
            num_inference_steps=20,
            guidance_scale=3.0,
            solver="ddim",
        ),
    )
    again = ImageRecord.model_validate(json.loads(json.dumps(record.to_row())))
    assert again == record
    assert {name: type(value) for name, value in again.facts.items()} == {
        "count": int,
        "share": float,
        "flat": bool,
        "code": str,
        "no": bool,
        "zero": int,
    }


def test_row_leaves_out_what_is_empty_and_text_may_be_one_string() -> None:
    assert ImageRecord(file_name="a.png", record_id="a").to_row() == {"file_name": "a.png", "record_id": "a"}
    assert ImageRecord.model_validate({"file_name": "a.png", "record_id": "a", "text": "x"}).text == ("x",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"record_id": "a b"}, "record_id must be 1 to 128 letters"),
        ({"record_id": ""}, "record_id must be"),
        ({"record_id": "a" * 129}, "record_id must be"),
        ({"record_id": "a\n"}, "record_id must be"),
        ({"file_name": "../a.png"}, "leaves the data folder"),
        ({"split": "dev"}, "train"),
        ({"facts": {"x": float("nan")}}, "finite"),
        ({"facts": {"x": [1]}}, "valid"),
        ({"class": "polyps"}, "Extra inputs"),
    ],
)
def test_malformed_record_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ImageRecord.model_validate({"file_name": "a.png", "record_id": "a", **change})


def test_attribute_is_a_label_or_a_fact_as_a_string() -> None:
    record = ImageRecord(
        file_name="a.png",
        record_id="a",
        label="polyps",
        facts={"quadrant": "upper-left", "n": 2, "big": True},
    )
    assert attribute(record, "label") == "polyps"
    assert attribute(record, "facts.quadrant") == "upper-left"
    assert attribute(record, "facts.n") == "2"
    assert attribute(record, "facts.big") == "true"


def test_attribute_names_the_record_that_lacks_it() -> None:
    record = ImageRecord(file_name="a.png", record_id="a7", facts={"n": 2})
    with pytest.raises(DataError, match=r"record a7 has no facts\.colour.*label, facts\.n"):
        attribute(record, "facts.colour")
    with pytest.raises(DataError, match="record a7 has no label"):
        attribute(record, "label")
    with pytest.raises(ValueError, match=r"'label' or 'facts\.NAME', got 'quadrant'"):
        attribute(record, "quadrant")


def test_problem_reads_as_one_line() -> None:
    problem = Problem(file="labels.csv", row=7, field="label", code="unknown-label", detail="has label 'x'")
    assert str(problem) == "labels.csv, row 7, field label: has label 'x' [unknown-label]"


def test_long_lists_are_cut_and_counted() -> None:
    assert list_briefly(list(range(8)), most=3) == "0; 1; 2; and 5 more"
    assert list_briefly([1, 2, 3], most=3) == "1; 2; 3"
