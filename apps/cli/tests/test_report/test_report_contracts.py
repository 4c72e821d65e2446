"""The files of the other stages, as those stages really write them, are files the report can read."""

import json
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from medgen_classify import ClassifyConfig
from medgen_cli.report import build_report
from medgen_cli.report.numbers import as_interval, as_number, as_percent, score_name
from medgen_cli.report.pages import NUM_PAIRS
from medgen_cli.settings import ScoreSettings
from medgen_cli.stages.classification import classify_datasets
from medgen_cli.stages.scoring import files_of_dataset, score_files
from medgen_data.image_folder import read_image_folder


@dataclass(frozen=True)
class OneEpoch:
    """Settings of the classify stage, as short as they can be."""

    recognise: tuple[str, ...] = ("label", "facts.quadrant")
    compare: bool = True

    def classifier(self, attribute: str) -> ClassifyConfig:
        return ClassifyConfig(attribute=attribute, epochs=1)


def test_what_the_classify_stage_writes_is_on_the_page(run_dir: Path) -> None:
    (run_dir / "classify" / "classification.json").unlink()
    (run_dir / "classify" / "recognition.json").unlink()
    written = classify_datasets(
        read_image_folder(run_dir / "data" / "dataset"),
        read_image_folder(run_dir / "synthetic" / "dataset"),
        OneEpoch(),
        run_dir / "classify",
        seed=0,
        device="cpu",
    )
    html = build_report(run_dir).read_text(encoding="utf-8")
    for judged in written["classification"]["real_only"], written["recognition"]["label"]["synthetic"]:
        for name in ("accuracy", "weighted_f1", "balanced_accuracy", "auc"):
            low, high = judged[name]["interval"]
            assert f"{judged[name]['value']:.3f}" in html
            assert f"{low:.3f} – {high:.3f}" in html
    figures = json.loads((run_dir / "report.json").read_text())
    assert figures["classification"]["difference"]["weighted_f1"] == {
        name: written["classification"]["difference"]["weighted_f1"][name] for name in ("value", "interval")
    }


def test_what_the_scores_stage_writes_is_on_the_page(run_dir: Path) -> None:
    scores_file = run_dir / "scores" / "scores.json"
    scores_file.unlink()
    document = score_files(
        files_of_dataset(read_image_folder(run_dir / "data" / "dataset").select(split="test")),
        files_of_dataset(read_image_folder(run_dir / "synthetic" / "dataset")),
        ScoreSettings(extractor="random:0"),
        scores_file,
        seed=0,
        device="cpu",
    )
    html = html_text(build_report(run_dir))
    assert {score["name"] for score in document["scores"]} >= {"frechet", "kid", "precision", "recall"}
    for score in document["scores"]:
        assert score_name(score["name"]) in html
        assert f">{as_number(score['value'])}</td>" in html
        assert f">{as_interval(tuple(score['interval']))}</td>" in html
        assert score["estimator"] in html
        for warning in score["warnings"]:
            assert warning in html
    figures = json.loads((run_dir / "report.json").read_text())
    assert figures["verdicts"][0]["value"] == document["scores"][0]["value"]
    assert figures["scores"]["real_fingerprint"] == document["real_fingerprint"]


def test_what_the_privacy_audit_and_colour_write_is_on_the_page(run_dir: Path) -> None:
    dataset = read_image_folder(run_dir / "data" / "dataset")
    document = score_files(
        files_of_dataset(dataset.select(split="test")),
        files_of_dataset(read_image_folder(run_dir / "synthetic" / "dataset")),
        ScoreSettings(extractor="random:0", metrics=("colour", "privacy"), false_positive_rate=0.1),
        run_dir / "scores" / "scores.json",
        seed=0,
        device="cpu",
        trained_on=dataset,
    )
    audit = json.loads((run_dir / "scores" / "privacy.json").read_text())
    html = html_text(build_report(run_dir))
    for score in document["scores"]:
        assert score_name(score["name"]) in html
        assert f">{as_interval(tuple(score['interval']))}</td>" in html
    assert "<summary>Class by class</summary>" in html
    assert f"Share of copies: <b>{as_percent(audit['copy_rate'])}</b>" in html
    for pair in audit["pairs"][:NUM_PAIRS]:
        assert f"{pair['synthetic_id']} | {pair['train_id']}" in html
    figures = json.loads((run_dir / "report.json").read_text())
    (verdict,) = [row for row in figures["verdicts"] if row["key"] == "copy_rate"]
    assert (verdict["value"], verdict["interval"]) == (audit["copy_rate"], audit["interval"])
    assert figures["privacy"]["num_flagged"] == audit["num_flagged"]


def test_pairs_of_images_that_were_drawn_anew_are_not_shown(run_dir: Path) -> None:
    dataset = read_image_folder(run_dir / "data" / "dataset")
    synthetic = read_image_folder(run_dir / "synthetic" / "dataset")
    settings = ScoreSettings(extractor="random:0", metrics=("privacy",), false_positive_rate=0.1)
    score_files(
        files_of_dataset(dataset.select(split="test")),
        files_of_dataset(synthetic),
        settings,
        run_dir / "scores" / "scores.json",
        seed=0,
        device="cpu",
        trained_on=dataset,
    )
    text = (run_dir / "scores" / "privacy.json").read_text()
    (run_dir / "scores" / "privacy.json").write_text(text.replace('"synthetic-', '"earlier-'))
    html = html_text(build_report(run_dir))
    assert "What each feature space found" in html
    assert "earlier-" not in html


def html_text(report_file: Path) -> str:
    return unescape(report_file.read_text(encoding="utf-8"))
