"""The single commands on small real files, one after the other as a user would call them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medgen_cli.stages.scoring import check_limits, parse_limits
from medgen_data.captions import read_captions
from medgen_data.image_folder import read_image_folder
from medgen_data.images import encode_png

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def write_class_folders(root: Path, num_images: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for label in ("normal-mucosa", "polyps"):
        (root / label).mkdir(parents=True)
        for n in range(num_images):
            image = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            (root / label / f"{label[:3]}{n}.png").write_bytes(encode_png(image))
    return root


def test_class_folders_become_a_data_set(medgen: Call, tmp_path: Path) -> None:
    root, out = write_class_folders(tmp_path / "source"), tmp_path / "dataset"
    ran = medgen("data", "--kind", "class-folders", "--root", root, "--out", out, "--size", 32, "--json")
    assert ran.exit_code == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["num_records"], result["labels"], result["problems"]) == (
        12,
        ["normal mucosa", "polyps"],
        [],
    )
    dataset = read_image_folder(out)
    assert sum(record.split == "test" for record in dataset.records) == 4  # ceil(0.2 * 6) of each class
    again = medgen("data", "--kind", "class-folders", "--root", root, "--out", out, "--size", 32, "--json")
    assert json.loads(again.stdout) == result


def test_bad_images_are_listed_and_the_others_done(
    medgen: Call, tmp_path: Path, one_clear_error: Call
) -> None:
    root, out = write_class_folders(tmp_path / "source"), tmp_path / "dataset"
    (root / "polyps" / "broken.png").write_bytes(b"<html>not an image</html>")
    (root / "polyps" / "empty.jpg").write_bytes(b"")
    ran = medgen("data", "--kind", "class-folders", "--root", root, "--out", out, "--size", 32, "--json")
    message = one_clear_error(ran, 4)
    assert "2 source images were left out" in message
    assert "problems.jsonl" in message
    result = json.loads(ran.stdout)
    assert result["num_records"] == 12
    assert {problem["file"] for problem in result["problems"]} == {"polyps/broken.png", "polyps/empty.jpg"}
    assert len((out / "problems.jsonl").read_text().splitlines()) == 2


def test_labelled_table_becomes_a_data_set_with_facts(medgen: Call, tmp_path: Path) -> None:
    root = tmp_path / "source"
    write_class_folders(root / "images")
    rows = [
        f"{file.relative_to(root).as_posix()},{file.parent.name},{n % 2}"
        for n, file in enumerate(sorted(root.rglob("*.png")))
    ]
    (root / "labels.csv").write_text("file,label,side\n" + "\n".join(rows) + "\n")
    out = tmp_path / "dataset"
    ran = medgen(
        "data", "--kind", "csv", "--root", root, "--out", out, "--size", 16, "--modality", "endoscopic"
    )
    assert ran.exit_code == 0, ran.stderr
    dataset = read_image_folder(out)
    assert dataset.card.modality == "endoscopic"
    assert {record.facts["side"] for record in dataset.records} == {0, 1}


def test_data_set_is_copied_at_another_size_with_its_split(medgen: Call, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    medgen("data", "--kind", "phantoms", "--num-images", 16, "--size", 64, "--out", first, "--seed", 4)
    ran = medgen("data", "--kind", "image-folder", "--root", first, "--out", second, "--size", 32)
    assert ran.exit_code == 0, ran.stderr
    one, two = read_image_folder(first), read_image_folder(second)
    assert [(r.record_id, r.label, r.split, r.facts) for r in one.records] == [
        (r.record_id, r.label, r.split, r.facts) for r in two.records
    ]
    assert two.card.split_seed == one.card.split_seed == 4


def test_flag_wins_over_set_and_set_over_the_recipe(medgen: Call, tmp_path: Path, write: Call) -> None:
    recipe = write("recipe.yaml", "seed: 5\ndata: {kind: phantoms, num_images: 16, size: 64}\n")
    changes = ["--set", "data.num_images=20", "--set", "data.size=96", "--json"]
    ran = medgen("data", "--config", recipe, "--out", tmp_path / "d", *changes, "--size", 48)
    result = json.loads(ran.stdout)
    assert (result["num_records"], result["split_seed"]) == (20, 5)
    assert "48px" in result["name"]


def test_captions_are_written_once_and_reused(medgen: Call, tmp_path: Path) -> None:
    dataset, captions = tmp_path / "d", tmp_path / "captions.jsonl"
    medgen("data", "--kind", "phantoms", "--num-images", 16, "--size", 64, "--out", dataset)
    ran = medgen("caption", dataset, "--method", "measured", "--out", captions, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["num_written"] == 16
    again = medgen("caption", dataset, "--method", "measured", "--out", captions, "--json")
    assert (json.loads(again.stdout)["num_written"], json.loads(again.stdout)["num_reused"]) == (0, 16)
    ids = {record.record_id for record in read_image_folder(dataset).records}
    assert read_captions(captions).keys() == ids


def test_prompts_of_a_file_become_a_synthetic_data_set_in_shards(
    medgen: Call, tmp_path: Path, write: Call
) -> None:
    from medgen_models import save_model
    from medgen_models.tiny import tiny_msdm

    save_model(tiny_msdm(), tmp_path / "model")
    prompts = write("prompts.txt", "a polyp\n\nnormal mucosa\n")
    common = ["sample", tmp_path / "model", "--prompts", prompts, "--num-images", 5, "--json"]
    common += ["--num-inference-steps", 2, "--batch-size", 2, "--seed", 9, "--device", "cpu"]
    whole = medgen(*common, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.stderr
    assert json.loads(whole.stdout) == {
        "dataset": str(tmp_path / "whole"),
        "complete": True,
        "num_drawn": 5,
        "num_kept": 0,
        "num_missing": 0,
    }
    first = medgen(*common, "--out", tmp_path / "parts", "--shard", "2/2")
    assert json.loads(first.stdout)["num_missing"] == 3
    second = medgen(*common, "--out", tmp_path / "parts", "--shard", "1/2", "--resume")
    assert json.loads(second.stdout)["complete"]
    rows = [(tmp_path / name / "metadata.jsonl").read_bytes() for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    prompts_drawn = [record.text[0] for record in read_image_folder(tmp_path / "whole").records]
    assert prompts_drawn == ["a polyp", "normal mucosa", "a polyp", "normal mucosa", "a polyp"]


@pytest.mark.parametrize(
    ("limit", "fails"),
    [
        ("frechet>60", True),
        ("frechet>70", False),
        ("kid<=0.5", True),
        ("kid < 0.1", False),
        ("frechet>=65", True),
    ],
)
def test_limit_fails_exactly_when_it_holds(limit: str, fails: bool) -> None:
    document = {"scores": [{"name": "frechet", "value": 65.0}, {"name": "kid", "value": 0.5}]}
    if fails:
        with pytest.raises(RuntimeError, match=r"gate not met: (frechet is 65|kid is 0\.5), which is"):
            check_limits(document, parse_limits([limit]))
    else:
        check_limits(document, parse_limits([limit]))


def test_limit_on_a_score_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"--fail-if fid: no such score; computed are frechet"):
        check_limits({"scores": [{"name": "frechet", "value": 65.0}]}, parse_limits(["fid>60"]))


def test_scores_of_two_folders_and_a_gate(medgen: Call, tmp_path: Path, one_clear_error: Call) -> None:
    root = write_class_folders(tmp_path / "source", num_images=8)
    phantoms = tmp_path / "phantoms"
    medgen("data", "--kind", "phantoms", "--num-images", 16, "--size", 64, "--out", phantoms)
    scores_file = tmp_path / "scores" / "scores.json"
    common = ["score", phantoms, root, "--out", scores_file, "--device", "cpu", "--json"]
    ran = medgen(*common, "--fail-if", "frechet>1e9")
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document == json.loads(scores_file.read_text())
    assert {"frechet", "kid"} <= {score["name"] for score in document["scores"]}
    for score in document["scores"]:
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert (score["num_real"], score["num_synthetic"]) == (16, 16)
    gated = medgen(*common, "--fail-if", "frechet>0")
    assert "gate not met: frechet is" in one_clear_error(gated, 7)
    assert json.loads(gated.stdout) == document
    no_split = medgen("score", root, phantoms, "--split", "test", "--device", "cpu")
    assert "so it has no split test" in one_clear_error(no_split, 3)


def test_what_cannot_be_scored_is_refused(medgen: Call, tmp_path: Path, one_clear_error: Call) -> None:
    root, small = (
        write_class_folders(tmp_path / "source"),
        write_class_folders(tmp_path / "small", num_images=1),
    )
    unknown = medgen("score", root, root, "--extractor", "inception-v9", "--device", "cpu")
    assert "expected one of efficientnet-lite0, inception:64" in one_clear_error(unknown, 2)
    words = ("score", root, small, "--extractor", "random:0", "--device", "cpu", "--out", tmp_path / "s.json")
    too_few = medgen(*words, "--metric", "prdc")
    assert "2 synthetic image(s) are too few" in one_clear_error(too_few, 3)
    partly = medgen(*words, "--metric", "prdc", "--metric", "frechet", "--json")
    assert "1 score(s) could not be computed: prdc: k=3 needs more than k images" in one_clear_error(
        partly, 4
    )
    assert [score["name"] for score in json.loads(partly.stdout)["scores"]] == ["frechet"]
    no_set = medgen(*words, "--metric", "privacy")
    assert "so it has no split train to look for copies of" in one_clear_error(no_set, 3)
    (small / "polyps" / "broken.png").write_bytes(b"<html>")
    broken = medgen("score", root, small, "--metric", "kid", "--device", "cpu", "--out", tmp_path / "s.json")
    assert "broken.png" in one_clear_error(broken, 3)


def test_classifiers_judge_a_synthetic_set(medgen: Call, tmp_path: Path) -> None:
    real, synthetic = tmp_path / "real", tmp_path / "synthetic"
    phantoms = ["data", "--kind", "phantoms", "--num-images", 32, "--size", 64]
    medgen(*phantoms, "--out", real)
    medgen(*phantoms, "--out", synthetic, "--seed", 1, "--test-fraction", 0)
    common = [
        "classify",
        "--real",
        real,
        "--synthetic",
        synthetic,
        "--out",
        tmp_path / "c",
        "--device",
        "cpu",
    ]
    ran = medgen(*common, "--epochs", 1, "--recognise", "label", "--recognise", "facts.quadrant", "--json")
    assert ran.exit_code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert set(found["recognition"]) == {"label", "facts.quadrant"}
    assert found["classification"] == json.loads((tmp_path / "c" / "classification.json").read_text())
    predictions = (tmp_path / "c" / "facts.quadrant-synthetic" / "predictions.jsonl").read_text()
    assert len(predictions.splitlines()) == 32
    human = medgen(*common, "--epochs", 1)
    assert "label, learnt from synthetic only" in human.stdout
