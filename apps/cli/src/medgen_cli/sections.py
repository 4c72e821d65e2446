"""Settings of a single command: its section of a recipe, then `--set`, then its own flags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from medgen_cli.config_files import apply_overrides, read_yaml, validate
from medgen_cli.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)

# The fields of a recipe, known here without loading the packages that define them.
RECIPE_FIELDS = (
    "name",
    "seed",
    "data",
    "caption",
    "paraphrase",
    "train",
    "sample",
    "score",
    "classify",
    "report",
)


def load_section(
    name: str,
    model: type[Model],
    *,
    config_file: Path | None,
    overrides: Sequence[str],
    flags: Mapping[str, Any],
) -> Model:
    """Return the settings of one stage; a flag wins over `--set`, which wins over the file.

    Args:
        name: Section of the recipe.
        model: Its pydantic model.
        config_file: Recipe, None: defaults.
        overrides: `section.field=value` options.
        flags: Field -> value of the flags that were given; None: not given.

    Raises:
        UsageError: Naming the file and the dotted field.
    """
    values = apply_overrides(read_yaml(config_file) if config_file else {}, overrides)
    source = str(config_file) if config_file else "command line"
    for key in values:
        if key not in RECIPE_FIELDS:
            raise UsageError(f"{source}: {key}: unknown section; known are {', '.join(RECIPE_FIELDS)}")
    section = values.get(name) or {}
    if not isinstance(section, dict):
        raise UsageError(f"{source}: {name}: expected a mapping of names to values, got {section!r}")
    given = {field: value for field, value in flags.items() if value is not None}
    return validate(model, {**section, **given}, source=source, prefix=name)


def recipe_seed(config_file: Path | None, overrides: Sequence[str], flag: int | None) -> int:
    """Return the seed: `--seed`, else the recipe's, else 0."""
    if flag is not None:
        return flag
    seed = apply_overrides(read_yaml(config_file) if config_file else {}, overrides).get("seed", 0)
    try:
        return int(seed)
    except (TypeError, ValueError):
        raise UsageError(f"seed: expected a whole number, got {seed!r}") from None
