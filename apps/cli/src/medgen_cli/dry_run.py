"""What a recipe would do: counts, parameters, steps, bytes, files. No weights are read and no GPU is used."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen_data.image_folder import IMAGE_SUFFIXES
from medgen_data.problems import DataError

from medgen_cli.settings import DataSettings

if TYPE_CHECKING:
    from medgen_training import MsdmTrainConfig

    from medgen_cli.recipes import Recipe

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
    num_images = count_source_images(recipe.data)
    num_test = ceil(recipe.data.test_fraction * num_images)
    num_train = num_images - num_test - ceil(recipe.data.validation_fraction * num_images)
    sample = recipe.sample
    per_class = f"{sample.per_class} per class" if sample.per_class else None
    files = list(_FILES)
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
        **training_plan(recipe.train, num_train),
        "num_synthetic": sample.num_images or per_class or f"one per {sample.prompts_from} record",
        "files": [str(run_dir / file) for file in files],
    }


def training_plan(config: "MsdmTrainConfig", num_images: int) -> dict[str, Any]:
    """Return parameters, steps and bytes of a training."""
    from medgen_training import plan_training

    return asdict(plan_training(config, num_images))


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
    files = planned.get("files", [])
    figures = {name: value for name, value in planned.items() if name != "files"}
    width = max(len(name) for name in figures)
    lines = [f"{name.ljust(width)}  {_readable(name, value)}" for name, value in figures.items()]
    return [*lines, *(["would write"] if files else []), *(f"  {file}" for file in files)]


def _readable(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,}" if isinstance(value, int) else str(value)
