import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.main import run_command_line

Call = Callable[..., Any]

RECIPE = """\
name: small
data: {kind: image-folder, size: 64}
train:
  preset: msdm-tiny
  autoencoder: {num_steps: 1, batch_size: 4}
  denoiser: {num_steps: 1, batch_size: 4}
sample: {num_inference_steps: 1, num_images: 8}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs of one recipe, a-0 and a-1, and b-0 with another guidance."""
    from medgen_data.phantoms import write_phantom_dataset

    folder = tmp_path_factory.mktemp("runs")
    write_phantom_dataset(folder / "phantoms", num_images=32, size=64, seed=0, test_fraction=0.5)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    for name, options in {
        "a-0": ["--seed", "0"],
        "a-1": ["--seed", "1"],
        "b-0": ["--seed", "0", "--set", "sample.guidance_scale=9", "--set", "name=other"],
    }.items():
        command = ["run", recipe, "--out", folder / name, "--device", "cpu", *options]
        command += ["--set", f"data.root={folder / 'phantoms'}"]
        assert run_command_line([str(part) for part in command]) == 0
    return folder


def frechet(run_dir: Path) -> float:
    scores = json.loads((run_dir / "scores" / "scores.json").read_text())["scores"]
    return next(float(score["value"]) for score in scores if score["name"] == "frechet")


def edited(run_dir: Path, copy: Path, file: str, change: Callable[[Any], None]) -> Path:
    """Copy a run and change one of its JSON files."""
    shutil.copytree(run_dir, copy)
    content = json.loads((copy / file).read_text())
    change(content)
    (copy / file).write_text(json.dumps(content))
    return copy


def test_seeds_are_pooled_and_recipes_told_apart(medgen: Call, runs: Path) -> None:
    ran = medgen("compare", runs / "a-0", runs / "b-0", runs / "a-1", "--json")
    assert ran.exit_code == 0, ran.stderr
    first, second = json.loads(ran.stdout)["recipes"]
    assert (first["letter"], first["seeds"]) == ("A", [0, 1])
    assert (second["letter"], second["seeds"]) == ("B", [0])
    assert second["differs_in"] == {"sample.guidance_scale": 9.0}
    assert list(first["differs_in"]) == ["sample.guidance_scale"]
    values = [frechet(runs / "a-0"), frechet(runs / "a-1")]
    spread = first["figures"]["frechet"]
    assert spread["mean"] == pytest.approx(sum(values) / 2)
    assert spread["standard_deviation"] == pytest.approx(statistics.stdev(values))
    assert (spread["lowest"], spread["highest"], spread["num_runs"]) == (min(values), max(values), 2)
    alone = second["figures"]["frechet"]
    assert (alone["mean"], alone["standard_deviation"]) == (frechet(runs / "b-0"), None)


def test_the_table_has_a_column_for_each_recipe(medgen: Call, runs: Path) -> None:
    lines = medgen("compare", runs / "a-0", runs / "a-1", runs / "b-0").stdout.splitlines()
    assert lines[0].split()[-2:] == ["A", "B"]
    assert lines[1].split() == ["seeds", "0,", "1", "0"]
    assert lines[2].split()[0] == "sample.guidance_scale"
    (distance,) = [line for line in lines if line.startswith("Fréchet distance")]
    assert "±" in distance
    assert not any(line.startswith("warning") for line in lines)  # a data set with a split keeps it


def test_figures_of_different_extractors_are_left_out(medgen: Call, runs: Path, tmp_path: Path) -> None:
    def other_weights(content: Any) -> None:
        content["real_fingerprint"] = "0" * 64
        for score in content["scores"]:
            if score["name"] == "frechet":
                score["extractor"]["sha256"] = "0" * 64
                score["num_synthetic"] += 1
            if score["name"] == "kid":
                score["num_synthetic"] += 1

    copy = edited(runs / "a-1", tmp_path / "other", "scores/scores.json", other_weights)
    compared = json.loads(medgen("compare", runs / "a-0", copy, "--json").stdout)
    (recipe,) = compared["recipes"]
    assert "frechet" not in recipe["figures"]
    assert recipe["figures"]["kid"]["num_runs"] == 2
    assert any(text.startswith("frechet: left out, measured in two ways") for text in compared["warnings"])
    assert "measured on other numbers of images in other runs: kid" in compared["warnings"]
    assert any("the real images differ between runs" in text for text in compared["warnings"])


def test_a_figure_that_some_runs_lack_says_how_many_have_it(medgen: Call, runs: Path, tmp_path: Path) -> None:
    def without_kid(content: Any) -> None:
        content["scores"] = [score for score in content["scores"] if score["name"] != "kid"]

    copy = edited(runs / "a-1", tmp_path / "lacking", "scores/scores.json", without_kid)
    lines = medgen("compare", runs / "a-0", copy).stdout.splitlines()
    (kid,) = [line for line in lines if line.startswith("Kernel distance")]
    assert kid.endswith("(1 of 2)")


def test_a_section_that_one_recipe_lacks_is_one_field(medgen: Call, runs: Path, tmp_path: Path) -> None:
    def with_classifier(content: Any) -> None:
        content["recipe"]["classify"] = {"backbone": "tiny", "epochs": 1}
        content["versions"]["torch"] = "0.1"

    copy = edited(runs / "a-1", tmp_path / "classified", "run.json", with_classifier)
    compared = json.loads(medgen("compare", runs / "a-0", copy, "--json").stdout)
    assert [recipe["differs_in"] for recipe in compared["recipes"]] == [
        {"classify": None},
        {"classify": "given"},
    ]
    assert any("different versions of torch" in text for text in compared["warnings"])


def test_a_field_that_an_older_version_did_not_know_makes_no_other_recipe(
    medgen: Call, runs: Path, tmp_path: Path
) -> None:
    older = edited(runs / "a-1", tmp_path / "older", "run.json", lambda run: run["recipe"].pop("paraphrase"))
    (recipe,) = json.loads(medgen("compare", runs / "a-0", older, "--json").stdout)["recipes"]
    assert recipe["seeds"] == [0, 1]


def test_one_experiment_counts_once(medgen: Call, one_clear_error: Call, runs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "a-0", tmp_path / "copy")
    message = one_clear_error(medgen("compare", runs / "a-0", copy), 2)
    assert "are one experiment: the same recipe and seed 0" in message


def test_runs_that_cannot_be_compared_are_named(
    medgen: Call, one_clear_error: Call, runs: Path, tmp_path: Path
) -> None:
    stopped = edited(
        runs / "a-1", tmp_path / "stopped", "run.json", lambda run: run.update(status="interrupted")
    )
    assert f"{stopped}: the run is interrupted" in one_clear_error(
        medgen("compare", runs / "a-0", stopped), 2
    )
    assert "not a run folder" in one_clear_error(medgen("compare", runs / "a-0", tmp_path), 2)
    assert "two runs or more" in one_clear_error(medgen("compare", runs / "a-0"), 2)

    def without_value(content: Any) -> None:
        content["scores"][0]["value"] = "much"

    broken = edited(runs / "a-1", tmp_path / "broken", "scores/scores.json", without_value)
    assert "scores.json" in one_clear_error(medgen("compare", runs / "a-0", broken), 3)
