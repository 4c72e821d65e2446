import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from medgen_metrics.extract import extract_features
from medgen_metrics.features.random_network import RandomExtractor
from medgen_metrics.prompt_files import ObjectiveImages
from medgen_metrics.prompt_sheet import PromptConfig, score_prompt_files, write_prompt_sheet
from medgen_metrics.prompts import Objective, prompt_scores
from torch import Tensor

Write = Callable[..., list[Path]]
CONFIG = PromptConfig(extractor="random:0", seed=4)


@pytest.fixture
def objectives(image_folder: Write) -> list[ObjectiveImages]:
    """Four objectives; the third is worded once, and all share some of their real images."""
    real = image_folder("real", 12, seed=100)
    made = [
        ObjectiveImages(
            f"o{index}",
            tuple(image_folder(f"first-{index}", 4, seed=index)),
            tuple(image_folder(f"second-{index}", 4, seed=50 + index)),
            tuple(real[index : index + 8]),
        )
        for index in range(4)
    ]
    return [*made[:2], replace(made[2], rephrased=()), made[3]]


def test_scores_are_those_of_the_features(objectives: list[ObjectiveImages], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    sheet = score_prompt_files(
        objectives,
        CONFIG,
        features_dir=tmp_path / "f",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    extractor = RandomExtractor(0)

    def features(files: tuple[Path, ...]) -> Tensor:
        return extract_features(files, extractor, features_dir=tmp_path / "g").feature_set.features

    generated, real, named = {}, {}, []
    for one in objectives:
        generated[f"{one.name} a"] = features(one.original)
        if one.rephrased:
            generated[f"{one.name} b"] = features(one.rephrased)
        real[one.name] = features(one.real)
        named.append(Objective(one.name, f"{one.name} a", f"{one.name} b" if one.rephrased else None))
    expected = prompt_scores(generated, real, named, seed=4)
    values = {name: estimate.value for name, estimate in sheet.estimates.items()}
    assert expected.agreement is not None
    assert expected.fidelity_ceiling is not None
    assert values == pytest.approx(
        {
            "fidelity": expected.fidelity.value,
            "fidelity-ceiling": expected.fidelity_ceiling.value,
            "agreement": expected.agreement.value,
            "diversity": expected.diversity.value,
            "fbd": expected.fbd.value,
        },
        rel=1e-5,
    )
    # Real images that several objectives share are encoded and counted once.
    assert (sheet.num_real, sheet.num_synthetic, seen[-1]) == (11, 28, (39, 39))
    assert sheet.not_computed == ()


def test_sheet_has_provenance_on_every_score(objectives: list[ObjectiveImages], tmp_path: Path) -> None:
    sheet = score_prompt_files(objectives, CONFIG, features_dir=tmp_path / "f")
    write_prompt_sheet(tmp_path / "prompts.json", sheet)
    content = json.loads((tmp_path / "prompts.json").read_text(encoding="utf-8"))
    assert content == sheet.to_json()
    assert [row["name"] for row in content["scores"]][:2] == ["fidelity", "fidelity-ceiling"]
    for row in content["scores"]:
        assert row["extractor"] == {"id": "random:0", "revision": None, "sha256": RandomExtractor(0).sha256}
        assert (row["seed"], row["num_objectives"], row["num_real"], row["num_synthetic"]) == (4, 4, 11, 28)
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        assert any("BiomedCLIP" in warning for warning in row["warnings"])
        assert "protocol all" in row["estimator"]
    assert [row["name"] for row in content["objectives"]] == ["o0", "o1", "o2", "o3"]


def test_objectives_that_cannot_be_scored_leave_the_others(
    objectives: list[ObjectiveImages], tmp_path: Path
) -> None:
    damaged = [
        replace(objectives[0], real=()),
        replace(objectives[1], rephrased=objectives[1].rephrased[:1]),
        *objectives[2:],
    ]
    sheet = score_prompt_files(damaged, CONFIG, features_dir=tmp_path / "f")
    assert [row.objective.name for row in sheet.scores.objectives] == ["o2", "o3"]
    assert sheet.not_computed == (
        "objective o0: no real images",
        "objective o1: one generated image of 'o1 (rephrased)', a covariance needs two",
    )


def test_one_objective_has_no_error_and_few_references_no_ceiling(
    objectives: list[ObjectiveImages], tmp_path: Path
) -> None:
    alone = replace(objectives[2], real=objectives[2].real[:5])
    sheet = score_prompt_files([alone], CONFIG, features_dir=tmp_path / "f")
    content = sheet.to_json()
    rows = {row["name"]: row for row in content["scores"]}
    assert rows["fidelity"]["standard_error"] is None
    assert rows["fbd"]["interval"][1] is None
    assert [reason.partition(":")[0] for reason in sheet.not_computed] == ["fidelity-ceiling", "agreement"]


def test_protocol_of_the_challenge_scores_the_first_half(
    objectives: list[ObjectiveImages], tmp_path: Path
) -> None:
    two_wordings = [objectives[0], objectives[1], objectives[3]]
    config = replace(CONFIG, protocol="medvqa2025")
    sheet = score_prompt_files(two_wordings, config, features_dir=tmp_path / "f")
    assert [row.objective.name for row in sheet.scores.objectives] == ["o0", "o1"]
    with pytest.raises(ValueError, match="protocol must be 'medvqa2025' or 'all', got 'half'"):
        replace(CONFIG, protocol="half")  # type: ignore[arg-type]
