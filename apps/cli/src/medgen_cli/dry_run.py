"""What a recipe would do: counts, parameters, steps, bytes, files. No weights are read and no GPU is used."""

import json
import logging
import re
from collections.abc import Mapping
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen_data.image_folder import IMAGE_SUFFIXES
from medgen_data.problems import DataError

from medgen_cli.errors import UsageError
from medgen_cli.output import table
from medgen_cli.settings import DataSettings

if TYPE_CHECKING:
    from medgen_cli.recipes import AnyTrainConfig, Recipe

_FILES = (
    "run.json",
    "recipe.yaml",
    "log.jsonl",
    "data/dataset/",
    "captions/captions.jsonl",
    "train/model/",
    "train/checkpoints/",
    "train/train_log.jsonl",
    "synthetic/dataset/",
    "scores/scores.json",
    "report.html",
    "report.json",
)


def plan_recipe(recipe: "Recipe", run_dir: Path) -> dict[str, Any]:
    """Return what `medgen run` would do with a recipe.

    Counts of a source folder are those of its image files, before any of them is decoded.
    """
    from medgen_cli.recipes import result_name

    num_images = count_source_images(recipe.data)
    num_test = ceil(recipe.data.test_fraction * num_images)
    num_train = num_images - _held_out(recipe.data, num_images)
    sample = recipe.sample
    result = result_name(recipe.train)
    per_class = f"{sample.per_class} per class" if sample.per_class else None
    files = [f"train/{result}/" if file == "train/model/" else file for file in _FILES]
    if sample.untrained_reference:
        files += ["synthetic/untrained/", "scores/scores_untrained.json"]
    if recipe.classify is not None:
        files += [
            "classify/recognition.json",
            *(["classify/classification.json"] if recipe.classify.compare else []),
        ]
    return {
        "recipe": recipe.name,
        "num_images": num_images,
        "num_train": num_train,
        "num_test": num_test,
        **training_plan(recipe.train, num_train * (2 if recipe.caption.flips else 1)),
        "num_synthetic": sample.num_images or per_class or f"one per {sample.prompts_from} record",
        "files": [str(run_dir / file) for file in files],
    }


def training_plan(
    config: "AnyTrainConfig", num_images: int, *, fit_bytes: int | None = None
) -> dict[str, Any]:
    """Return parameters, steps, FLOPs and bytes of a training; see `medgen_cli.training_plan`."""
    from medgen_cli import training_plan

    # It warns that casting a module is inexact, and nothing here has values.
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return training_plan.training_plan(config, num_images, fit_bytes=fit_bytes)


def count_training_images(settings: DataSettings) -> int:
    """Return how many images of the source are trained on.

    A source that is not on this machine is taken to hold `limit` images.

    Raises:
        DataError: If neither the source nor a limit is there.
    """
    if settings.limit and settings.root is not None and not settings.root.is_dir():
        num_images = settings.limit
    else:
        try:
            num_images = count_source_images(settings)
        except DataError as error:
            raise DataError(f"{error}; or give --num-images") from error
    return num_images - _held_out(settings, num_images)


def _held_out(settings: DataSettings, num_images: int) -> int:
    fractions = (settings.test_fraction, settings.validation_fraction)
    return sum(ceil(fraction * num_images) for fraction in fractions)


def parse_memory(text: str) -> int:
    """Return the bytes of a size such as 24GB (10^9) or 24GiB (2^30).

    Raises:
        UsageError: If it is none.

    >>> parse_memory("24GB")
    24000000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GIB|MB|MIB)", text.strip(), flags=re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise UsageError(f"--fit {text}: expected a size such as 24GB or 24GiB")
    units = {"GB": 10**9, "GIB": 2**30, "MB": 10**6, "MIB": 2**20}
    return int(float(found[1]) * units[found[2].upper()])


def count_source_images(settings: DataSettings) -> int:
    """Return the number of source images, at most `limit`.

    Raises:
        DataError: If the source folder is missing or holds no images.
    """
    if settings.kind == "phantoms":
        return settings.num_images or 0
    root = settings.root
    assert root is not None
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check data.root")
    images = (file for file in root.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    count = sum(1 for _ in islice(images, settings.limit))
    if not count:
        raise DataError(f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return count


def plan_lines(planned: Mapping[str, Any]) -> list[str]:
    """Lay out a plan for a human."""
    flat = {name: value for name, value in planned.items() if not isinstance(value, Mapping | list)}
    width = max(len(name) for name in flat)
    lines = [f"{name.ljust(width)}  {_readable(name, value)}" for name, value in flat.items()]
    if parameters := planned.get("parameters"):
        rows = [[part, f"{c['total']:,}", f"{c['trainable']:,}"] for part, c in parameters.items()]
        lines += ["", *table(rows, header=["parameters", "network", "trained"])]
    if flops := planned.get("flops"):
        rows = [[name.replace("_", " "), _flops(value)] for name, value in flops.items()]
        lines += ["", *table(rows, header=["arithmetic", "FLOP"])]
    if memory := planned.get("memory"):
        lines += ["", *table(_memory_rows(memory), header=["memory of a step", "GiB"])]
    if fit := planned.get("fit"):
        lines += ["", f"fits {fit['memory_bytes'] / 2**30:.1f} GiB with"]
        lines += [f"  {name}={json.dumps(value).strip(chr(34))}" for name, value in fit["settings"].items()]
        lines += [f"  - {reason}" for reason in fit["reasons"]]
    files = planned.get("files", [])
    return [*lines, *(["would write"] if files else []), *(f"  {file}" for file in files)]


def _memory_rows(memory: Mapping[str, Any]) -> list[list[str]]:
    weights = {f"weights, {part}": value for part, value in memory["weights"].items()}
    rest = {name: value for name, value in memory.items() if name != "weights"}
    return [
        [name.replace("_", " "), f"{value / 2**30:.2f}" if value is not None else "not measured"]
        for name, value in {**weights, **rest}.items()
        if value != 0 and (value is not None or name == "activations")
    ]


def _flops(value: int) -> str:
    return f"{value / 1e12:,.3g} T" if value < 1e15 else f"{value / 1e15:,.4g} P"


def _readable(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,}" if isinstance(value, int) else str(value)
