"""What PAPERS.md points to is there: recipes, their keys, and tests."""

import re
from pathlib import Path

import pytest
from medgen_cli.config_files import dotted_fields
from medgen_cli.recipes import Recipe

ROOT = Path(__file__).parents[1]
QUOTED = set(re.findall(r"`([^`\n]+)`", (ROOT / "PAPERS.md").read_text(encoding="utf-8")))
KEY = r"(?:caption|data|paraphrase|sample|train)\.[a-z0-9_.]+"


@pytest.mark.parametrize("recipe", sorted(name for name in QUOTED if name.startswith("configs/")))
def test_recipe_is_there(recipe: str) -> None:
    assert (ROOT / recipe).is_file()


def test_keys_are_those_of_a_recipe() -> None:
    known = set(dotted_fields(Recipe))
    keys = {name for name in QUOTED if re.fullmatch(KEY, name)}
    assert len(keys) > 50
    assert keys - known == set()


def test_tests_are_there() -> None:
    named = {name for name in QUOTED if name.startswith("test_")}
    assert len(named) > 50
    files = [file for folder in ("packages", "apps", "tests") for file in (ROOT / folder).rglob("test_*.py")]
    written = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert {name for name in named if f"def {name}(" not in written} == set()
