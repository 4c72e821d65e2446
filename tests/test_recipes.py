"""Every recipe of the project loads, and plans its work without weights."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.dry_run import count_training_images, training_plan
from medgen_cli.recipes import DEMO_RECIPE_FILE, AnyTrainConfig, Recipe, load_recipe
from medgen_cli.sections import RECIPE_FIELDS
from medgen_training import AdapterTrainConfig, DitTrainConfig, MsdmTrainConfig
from medgen_training.hldf import num_evaluations

CONFIGS_DIR = Path(__file__).parents[1] / "configs"
NUM_IMAGES = 6_400  # Kvasir
MED_ART = ("pixart_hldf", "pixart", "sd14", "sd15", "sdxl", "hunyuan_dit", "fast_dit")
MMCP = ("msdm_vae", "msdm", "kandinsky22_prior", "kandinsky22_decoder", "kandinsky3")
PROMPT_TO_POLYP = ("flux", "kandinsky22", "msdm")
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
        *(f"med_art/{row}.yaml" for row in MED_ART),
        *(f"mmcp/{row}.yaml" for row in MMCP),
        *(f"prompt_to_polyp/{row}.yaml" for row in PROMPT_TO_POLYP),
    }


@cache
def plan_of(row: str) -> dict[str, Any]:
    """Plan a recipe once: a full-size family takes seconds."""
    return training_plan(load_recipe(CONFIGS_DIR / f"{row}.yaml").train, NUM_IMAGES)


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


# Base and trained parameters of the denoiser, counted from the published architectures.
DENOISERS = {
    "demo": (7_918_672, 7_918_672),
    "med_art/pixart_hldf": (610_856_096, 6_882_688),
    "med_art/sd15": (859_520_964, 1_594_368),
    "med_art/sdxl": (2_567_463_684, 11_612_160),
    "med_art/hunyuan_dit": (1_516_534_048, 6_963_200),
    "med_art/fast_dit": (32_785_664, 32_785_664 - 24_576),  # fixed positions are not trained
    "mmcp/msdm": (326_526_728, 326_526_728),  # with the input of self-conditioning
    "mmcp/kandinsky22_prior": (1_026_225_920, 128 * 327_680),
    "mmcp/kandinsky22_decoder": (1_253_057_288, 32 * 205_824),
    "mmcp/kandinsky3": (3_055_348_228, 128 * 417_792),
    "prompt_to_polyp/flux": (11_901_408_320, 64 * 2_801_664),
}


@pytest.mark.parametrize("row", DENOISERS)
def test_recipe_of_every_family_is_planned_with_the_parameters_of_its_paper(row: str) -> None:
    config, plan = load_recipe(CONFIGS_DIR / f"{row}.yaml").train, plan_of(row)
    total, trainable = DENOISERS[row]
    assert plan["parameters"]["denoiser"] == {"total": total, "trainable": trainable}
    trained = sum(counts["trainable"] for counts in plan["parameters"].values())
    assert trained == plan["num_trainable_parameters"]
    assert plan["num_steps"] == steps_of(config, NUM_IMAGES)
    assert plan["flops"]["training"] > plan["flops"]["step"] > 1e9
    assert plan["memory"]["peak"] > sum(plan["memory"]["weights"].values())


def test_prior_and_decoder_of_one_rank_add_up_to_table_4_of_prompt_to_polyp() -> None:
    prior, decoder = plan_of("mmcp/kandinsky22_prior"), plan_of("mmcp/kandinsky22_decoder")
    per_rank = prior["num_trainable_parameters"] // 128 + decoder["num_trainable_parameters"] // 32
    assert per_rank == 533_504


def test_med_art_on_kvasir_has_96000_steps_and_192_colour_losses() -> None:
    recipe = load_recipe(CONFIGS_DIR / "med_art" / "pixart_hldf.yaml")
    assert count_training_images(recipe.data) == NUM_IMAGES == 6_400
    plan = plan_of("med_art/pixart_hldf")
    assert (plan["num_steps"], plan["hldf_evaluations"]) == (96_000, 192)
    assert plan["flops"]["hldf_evaluation"] > 20 * plan["flops"]["step"]


@pytest.mark.parametrize(("include_step_zero", "evaluations"), [(True, 45), (False, 44)])
def test_med_art_on_skin_has_66520_steps_and_the_45_colour_losses_of_its_code(
    include_step_zero: bool, evaluations: int
) -> None:
    changes = ["train.num_epochs=10", "train.hldf.every_steps=1500"]
    changes.append(f"train.hldf.include_step_zero={str(include_step_zero).lower()}")
    config = load_recipe(CONFIGS_DIR / "med_art" / "pixart_hldf.yaml", overrides=changes).train
    assert isinstance(config, AdapterTrainConfig)
    assert config.hldf is not None
    assert config.steps_for(6_652) == 66_520
    assert num_evaluations(66_520, config.hldf) == evaluations
