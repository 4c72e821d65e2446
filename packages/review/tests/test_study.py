import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_review.study import Study, StudyError, digest_of, read_study

MakeStudy = Callable[..., Study]


@pytest.fixture
def study_file(make_study: MakeStudy, tmp_path: Path) -> Path:
    file = tmp_path / "study.json"
    file.write_text(make_study(num_prompts=2).model_dump_json())
    return file


def edit(file: Path, *place: str | int, value: object, sign: bool = False) -> None:
    """Change one place by hand, and make the digest anew if asked to."""
    content: dict[str, Any] = json.loads(file.read_text())
    here: Any = content
    for part in place[:-1]:
        here = here[part]
    here[place[-1]] = value
    if sign:
        content["digest"] = digest_of(content)
    file.write_text(json.dumps(content))


def test_a_study_is_read_as_it_was_written(study_file: Path, make_study: MakeStudy) -> None:
    assert read_study(study_file) == make_study(num_prompts=2)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("title",), "Another"),
        (("seed",), 7),
        (("prompts", 0, "text"), "changed"),
        (("sets", 0, "images", 0, "file"), "other.png"),
        (("sets", 0, "images", 0, "sha256"), "0" * 64),
        (("design", "num_repeats"), 1),
        (("design", "framing"), "centre"),
        (("aspects", 0, "question"), "Nice?"),
        (("digest",), "0" * 64),
    ],
)
def test_a_study_that_was_edited_by_hand_is_refused(
    study_file: Path, place: tuple[str | int, ...], value: object
) -> None:
    edit(study_file, *place, value=value)
    with pytest.raises(
        StudyError, match=r"study.json: was changed after it was made .*create a new study file"
    ):
        read_study(study_file)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("models", 1), "model-0", "model must be unique, but model-0 comes twice"),
        (("models", 0), "real", "must not be called 'real'"),
        (("aspects", 0, "key"), "rank", "must not be called 'rank'"),
        (("sets", 0, "prompt_id"), "p001", r"sets: the set of 'model-0' for prompt 'p000' is missing"),
        (
            ("references", 0, "model"),
            "model-0",
            r"references: the set of 'real' for prompt 'p000' is missing",
        ),
        (("prompts", 0, "prompt_id"), "../x", r"prompts.0.prompt_id: String should match"),
        (("sets", 0, "images"), [], r"sets.0.images: Tuple should have at least 1 item"),
        (("design", "unknown"), 1, r"design.unknown: Extra inputs are not permitted"),
        (("highest",), 0, r"highest: Input should be greater than or equal to 1"),
        (("study_format",), "other", r"not a study: study_format must be 'medgen-study'"),
        (("format_version",), 2, r"format_version: Input should be 1"),
    ],
)
def test_what_cannot_be_a_study_is_named(
    study_file: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    edit(study_file, *place, value=value, sign=True)
    with pytest.raises(StudyError, match=message):
        read_study(study_file)


def test_files_that_are_no_study_are_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"none.json: cannot be read \(No such file"):
        read_study(tmp_path / "none.json")
    file = tmp_path / "study.json"
    for text, message in (("{", "not a JSON file"), ("[]", "not a study"), ('{"a": 1}', "not a study")):
        file.write_text(text)
        with pytest.raises(StudyError, match=message):
            read_study(file)


def test_the_digest_is_of_everything_else() -> None:
    assert digest_of({"a": 1, "digest": "x"}) == digest_of({"a": 1}) != digest_of({"a": 2})
