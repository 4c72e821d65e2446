"""Every recipe of the project loads, and plans its work without weights."""

from pathlib import Path

import pytest
from medgen_cli.dry_run import training_plan
from medgen_cli.recipes import DEMO_RECIPE_FILE, AnyTrainConfig, Recipe, load_recipe
from medgen_cli.sections import RECIPE_FIELDS
from medgen_training import AdapterTrainConfig, DitTrainConfig, MsdmTrainConfig

CONFIGS_DIR = Path(__file__).parents[1] / "configs"
RECIPE_FILES = sorted(CONFIGS_DIR.rglob("*.yaml"))


def steps_of(config: AnyTrainConfig, num_images: int) -> int:
    match config:
        case MsdmTrainConfig():
            return config.autoencoder.num_steps + config.denoiser.num_steps
        case DitTrainConfig():
            return config.denoiser.num_steps
        case AdapterTrainConfig():
            return config.steps_for(num_images)


def test_there_are_recipes() -> None:
    assert {file.relative_to(CONFIGS_DIR).as_posix() for file in RECIPE_FILES} >= {
        "demo.yaml",
        "real/dermoscopy.yaml",
        "real/endoscopy.yaml",
    }


@pytest.mark.parametrize(
    "recipe_file", RECIPE_FILES, ids=lambda file: file.relative_to(CONFIGS_DIR).as_posix()
)
def test_every_recipe_loads_and_can_be_planned(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    plan = training_plan(recipe.train, 1000)
    trained = sum(counts["trainable"] for counts in plan["parameters"].values())
    assert 0 < trained == plan["num_trainable_parameters"]
    assert plan["num_steps"] == steps_of(recipe.train, 1000)


@pytest.mark.parametrize(
    "recipe_file", RECIPE_FILES, ids=lambda file: file.relative_to(CONFIGS_DIR).as_posix()
)
def test_resolved_recipe_loads_again_unchanged(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_demo_of_the_folder_is_the_demo_of_the_package() -> None:
    assert (CONFIGS_DIR / "demo.yaml").read_bytes() == DEMO_RECIPE_FILE.read_bytes()


def test_sections_known_to_single_commands_are_those_of_a_recipe() -> None:
    assert tuple(Recipe.model_fields) == RECIPE_FIELDS
