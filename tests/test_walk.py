"""The whole way, from nothing to the report, at sizes that a test can afford."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from medgen_data.fingerprint import file_sha256
from medgen_data.image_folder import check_fingerprint, read_image_folder
from medgen_data.phantoms import PHANTOM_LABELS

RECIPE = """\
name: walk
seed: 1
data: {kind: phantoms, num_images: 48, size: 64, test_fraction: 0.25}
caption: {method: measured}
train:
  preset: msdm-tiny
  autoencoder: {num_steps: 4, batch_size: 4, log_every: 1}
  denoiser: {num_steps: 4, batch_size: 4, log_every: 1}
sample: {num_inference_steps: 2, batch_size: 8, per_class: 3, prompts_from: test, untrained_reference: true}
score: {metrics: [frechet, kid, prdc], batch_size: 12}
classify: {epochs: 1, recognise: [label, facts.quadrant]}
"""


@dataclass(frozen=True)
class Walked:
    run_dir: Path
    recipe_file: Path
    result: dict[str, Any]

    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run_dir / "run.json").read_text(encoding="utf-8"))
        return content


def medgen(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "medgen_cli.main", *(str(argument) for argument in arguments)]
    # One thread: the tiny model gains nothing from more, and loses much when the cores are busy.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    folder = tmp_path_factory.mktemp("walk")
    recipe_file, run_dir = folder / "recipe.yaml", folder / "run"
    recipe_file.write_text(RECIPE, encoding="utf-8")
    ran = medgen("run", recipe_file, "--out", run_dir, "--device", "cpu", "--json")
    assert ran.returncode == 0, ran.stderr
    return Walked(run_dir, recipe_file, json.loads(ran.stdout))


def test_every_stage_completes_in_order(walked: Walked) -> None:
    record = walked.record()
    assert (record["status"], record["exit_code"]) == ("complete", 0)
    stages = ["data", "captions", "train", "synthetic", "scores", "classify", "report"]
    assert list(record["stages"]) == stages
    assert {stage["status"] for stage in record["stages"].values()} == {"complete"}


def test_result_gives_the_figures_with_intervals(walked: Walked) -> None:
    result = walked.result
    assert result["frechet"]["value"] > 0
    assert result["frechet_ratio"] == result["frechet_untrained"]["value"] / result["frechet"]["value"]
    for attribute in ("label", "facts.quadrant"):
        for side in ("real_test", "synthetic"):
            low, high = result["recognised"][attribute][side]["interval"]
            assert 0 <= low <= result["recognised"][attribute][side]["value"] <= high <= 1
    assert set(result["classifier_on_real_test"]) == {"real_only", "synthetic_only", "difference"}
    assert result["peak_memory_bytes"] > 1e8
    assert set(result["seconds"]) == set(walked.record()["stages"])


def test_synthetic_set_is_a_data_set_traced_back_to_model_and_prompts(walked: Walked) -> None:
    real = read_image_folder(walked.run_dir / "data" / "dataset")
    synthetic = read_image_folder(walked.run_dir / "synthetic" / "dataset")
    check_fingerprint(synthetic)
    assert [record.label for record in synthetic.records] == [
        label for label in sorted(PHANTOM_LABELS) for _ in range(3)
    ]
    test_records = {record.record_id: record for record in real.select(split="test").records}
    for record in synthetic.records:
        assert record.generation is not None
        source = test_records[record.record_id.removeprefix("synthetic-").rpartition("-")[0]]
        assert (record.label, record.facts) == (source.label, source.facts)
        assert record.generation.prompt == source.text[0]
        assert record.generation.model_sha256 == walked.record()["stages"]["train"]["figures"]["model_sha256"]


def test_record_holds_the_hash_of_every_output(walked: Walked) -> None:
    for stage in walked.record()["stages"].values():
        assert stage["outputs"]
        for file, sha256 in stage["outputs"].items():
            assert file_sha256(walked.run_dir / file) == sha256


def test_scores_name_the_images_they_compared(walked: Walked) -> None:
    synthetic = read_image_folder(walked.run_dir / "synthetic" / "dataset")
    untrained = read_image_folder(walked.run_dir / "synthetic" / "untrained")
    scores = json.loads((walked.run_dir / "scores" / "scores.json").read_text(encoding="utf-8"))
    reference = json.loads((walked.run_dir / "scores" / "scores_untrained.json").read_text(encoding="utf-8"))
    assert scores["synthetic_fingerprint"] == synthetic.card.fingerprint
    assert reference["synthetic_fingerprint"] == untrained.card.fingerprint
    assert scores["real_fingerprint"] == reference["real_fingerprint"]


def test_report_is_one_page_without_outside_sources(walked: Walked) -> None:
    page = (walked.run_dir / "report.html").read_text(encoding="utf-8")
    assert "<img" in page
    for outside in ('src="http', 'href="http', "@import", "<script src"):
        assert outside not in page


def test_second_run_does_nothing_and_says_so(walked: Walked) -> None:
    before = {file: file.read_bytes() for file in walked.run_dir.rglob("*") if file.is_file()}
    ran = medgen("run", walked.recipe_file, "--out", walked.run_dir, "--device", "cpu", "--json", "--resume")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("finished already, nothing changed") == 7
    changed = {
        file.relative_to(walked.run_dir).as_posix()
        for file, content in before.items()
        if file.read_bytes() != content
    }
    assert changed <= {"run.json", "log.jsonl", "run.lock"}


def test_lost_scores_are_made_again_to_the_byte(walked: Walked) -> None:
    scores_file = walked.run_dir / "scores" / "scores.json"
    before = scores_file.read_bytes()
    scores_file.unlink()
    ran = medgen("run", "--out", walked.run_dir, "--device", "cpu", "--resume")
    assert ran.returncode == 0, ran.stderr
    assert scores_file.read_bytes() == before
    assert ran.stderr.count("finished already, nothing changed") == 6


def test_fork_draws_other_images_from_the_same_model(walked: Walked) -> None:
    model = walked.record()["stages"]["train"]["outputs"]
    arguments = ["run", walked.recipe_file, "--out", walked.run_dir, "--device", "cpu"]
    arguments += ["--set", "sample.guidance_scale=1"]
    refused = medgen(*arguments)
    assert refused.returncode == 2
    assert "sample.guidance_scale: 3.0 -> 1.0" in refused.stderr
    ran = medgen(*arguments, "--fork")
    assert ran.returncode == 0, ran.stderr
    assert walked.record()["stages"]["train"]["outputs"] == model
    assert sorted(folder.name for folder in (walked.run_dir / "history").iterdir() if folder.is_dir())
    synthetic = read_image_folder(walked.run_dir / "synthetic" / "dataset")
    assert {record.generation.guidance_scale for record in synthetic.records if record.generation} == {1.0}
