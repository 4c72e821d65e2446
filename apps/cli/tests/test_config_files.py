from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from medgen_cli.config_files import apply_overrides, diff_fields, dotted_fields, read_yaml, validate
from medgen_cli.errors import UsageError
from pydantic import BaseModel, ConfigDict, Field

Write = Callable[[str, str], Path]


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    num_steps: int = Field(default=1, ge=1)
    solver: Literal["ddim", "dpm"] = "ddim"
    learning_rate: float = 1e-3


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    inner: Inner = Inner()
    other: Inner | None = None
    metrics: tuple[str, ...] = ()


def test_yaml_mapping_is_read(write: Write) -> None:
    assert read_yaml(write("a.yaml", "name: x\ninner: {num_steps: 3}\n")) == {
        "name": "x",
        "inner": {"num_steps": 3},
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [1, 2\n", r"a\.yaml line \d: not valid YAML"),
        ("name: x\nname: y\n", r"a\.yaml line 2: .*the key 'name' stands twice"),
        ("- a\n- b\n", r"a\.yaml: expected a mapping of names to values, got list"),
        ("", r"a\.yaml: expected a mapping .* got NoneType"),
        ("1: x\n", r"a\.yaml: expected a mapping"),
        ("run: !!python/object/apply:os.system ['true']\n", r"a\.yaml line 1: not valid YAML"),
    ],
)
def test_unreadable_yaml_names_the_file_and_the_line(write: Write, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_yaml(write("a.yaml", text))


def test_binary_file_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match=r"a\.yaml: not UTF-8 text \(byte 6\)"):
        read_yaml(tmp_path / "a.yaml")


def test_folder_is_not_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_overrides_are_typed_by_the_field_they_set() -> None:
    overrides = ["inner.num_steps=7", "inner.learning_rate=1e-4", "name=12", "metrics=[a, b]", "other=null"]
    result = validate(Outer, apply_overrides({"name": "x", "other": {}}, overrides), source="command line")
    assert result == Outer(
        name="12", inner=Inner(num_steps=7, learning_rate=1e-4), metrics=("a", "b"), other=None
    )


def test_true_and_false_are_truth_values_where_text_would_be_taken_too() -> None:
    assert apply_overrides({}, ["a=true", "b=false", "c=True"]) == {"a": True, "b": False, "c": "True"}


def test_overrides_leave_their_source_alone() -> None:
    values = {"inner": {"num_steps": 1}}
    apply_overrides(values, ["inner.num_steps=2"])
    assert values == {"inner": {"num_steps": 1}}


@pytest.mark.parametrize("override", ["inner.num_steps", "=3", "inner..num_steps=3", ".=1"])
def test_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(UsageError, match=r"--set .*expected name\.name=value"):
        apply_overrides({}, [override])


def test_override_with_broken_yaml_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"--set metrics=\[a: not|--set metrics=\[a: the value is not valid YAML"
    ):
        apply_overrides({}, ["metrics=[a"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": "x", "iner": {}}, r'r\.yaml: iner: unknown key; did you mean "inner"\?'),
        (
            {"name": "x", "inner": {"num_step": 1}},
            r'r\.yaml: inner\.num_step: unknown key; did you mean "num_steps"\?',
        ),
        ({"name": "x", "other": {"solvr": 1}}, r'other\.solvr: unknown key; did you mean "solver"\?'),
        ({"name": "x", "solver": "dpm"}, r'solver: unknown key; did you mean "inner\.solver"\?'),
        ({"name": "x", "zzz": 1}, r"zzz: unknown key; known here: name, inner, other, metrics"),
        ({}, r"r\.yaml: name: missing"),
        (
            {"name": "x", "inner": {"num_steps": 0}},
            r"inner\.num_steps: should be greater than or equal to 1, got 0",
        ),
        (
            {"name": "x", "inner": {"solver": "euler"}},
            r"inner\.solver: should be 'ddim' or 'dpm', got 'euler'",
        ),
        (
            {"name": "x", "inner": {"num_steps": "many"}},
            r"inner\.num_steps: should be a valid integer.*got 'many'",
        ),
    ],
)
def test_wrong_value_names_file_field_and_remedy(values: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        validate(Outer, values, source="r.yaml")


def test_suggestions_carry_the_name_of_the_section() -> None:
    with pytest.raises(UsageError, match=r'train\.inner\.solvr: unknown key; did you mean "solver"\?'):
        validate(Outer, {"name": "x", "inner": {"solvr": 1}}, source="r.yaml", prefix="train")


def test_all_problems_are_told_up_to_five() -> None:
    values = {"name": "x", **{f"wrong_{n}": n for n in range(7)}}
    with pytest.raises(UsageError) as caught:
        validate(Outer, values, source="r.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "r.yaml: and 2 more"


def test_dotted_fields_reach_optional_models() -> None:
    assert "other.learning_rate" in list(dotted_fields(Outer))


def test_equal_recipes_have_no_differences() -> None:
    assert diff_fields({"a": {"b": 1}}, {"a": {"b": 1}}) == []


def test_differences_name_the_field_and_both_values() -> None:
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    new = {"a": {"b": 1, "c": 5}, "e": 4}
    assert diff_fields(old, new) == ["a.c: 2 -> 5", "d: 3 -> None", "e: None -> 4"]


def test_recipes_know_every_score_that_the_metrics_package_computes_from_two_sets() -> None:
    from typing import get_args

    from medgen_cli.settings import Metric
    from medgen_metrics import METRICS

    # Privacy is about the training images too, which those two sets do not tell.
    assert get_args(Metric) == (*METRICS, "privacy")
