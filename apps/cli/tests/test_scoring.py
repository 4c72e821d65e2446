"""The score stage on data sets: colour per class, the privacy audit, and what cannot be computed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.settings import DataSettings, ScoreSettings
from medgen_cli.stages.data import make_dataset
from medgen_cli.stages.scoring import files_of_dataset, score_files
from medgen_data.image_folder import ImageDataset, read_image_folder
from medgen_data.problems import DataError

SETTINGS = ScoreSettings(
    extractor="random:0", metrics=("kid", "colour", "privacy"), false_positive_rate=0.05, batch_size=64
)
NUM_COPIES = 5


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Phantoms, 59 to train on and 41 held out."""
    settings = DataSettings(kind="phantoms", num_images=100, size=32, test_fraction=0.4)
    return make_dataset(settings, tmp_path_factory.mktemp("real") / "dataset", seed=0).dataset


@pytest.fixture(scope="module")
def synthetic(real: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Other phantoms, the first few of them replaced by training images."""
    settings = DataSettings(kind="phantoms", num_images=24, size=32, test_fraction=0.0)
    made = make_dataset(settings, tmp_path_factory.mktemp("synthetic") / "dataset", seed=1).dataset
    copied = real.select(split="train").records[:NUM_COPIES]
    for record, original in zip(made.records, copied, strict=False):
        shutil.copyfile(real.image_file(original), made.image_file(record))
    return made


def score(
    real: ImageDataset, synthetic: ImageDataset, scores_file: Path, settings: ScoreSettings = SETTINGS
) -> dict[str, Any]:
    return score_files(
        files_of_dataset(real.select(split="test")),
        files_of_dataset(synthetic),
        settings,
        scores_file,
        seed=0,
        device="cpu",
        trained_on=real,
    )


def test_copies_of_training_images_are_counted_and_named_by_record(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path
) -> None:
    document = score(real, synthetic, tmp_path / "scores.json")
    assert document == json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    audit = json.loads((tmp_path / "privacy.json").read_text(encoding="utf-8"))
    (rate,) = [row for row in document["scores"] if row["name"] == "copy-rate"]
    assert rate["value"] == audit["copy_rate"] == audit["num_flagged"] / 24
    assert rate["interval"] == audit["interval"]
    assert NUM_COPIES <= audit["num_flagged"] <= NUM_COPIES + 5
    assert (rate["num_real"], rate["num_synthetic"]) == (59, 24)
    assert rate["extractor"]["id"] == "random:0 + pixels:8"
    assert "calibrated on 41 held-out images at a false-positive rate of 0.05" in rate["estimator"]
    planted = zip(synthetic.records, real.select(split="train").records[:NUM_COPIES], strict=False)
    found = {(pair["synthetic_id"], pair["train_id"]) for pair in audit["flagged"]}
    assert {(made.record_id, original.record_id) for made, original in planted} <= found
    assert f"{NUM_COPIES} synthetic image(s) are training images, byte for byte" in rate["warnings"]
    assert (tmp_path / "pairs_sheet.png").is_file()


def test_results_tell_nothing_of_where_the_files_lie(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path
) -> None:
    score(real, synthetic, tmp_path / "scores.json")
    for name in ("scores.json", "privacy.json"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert str(real.root) not in text
        assert str(synthetic.root) not in text


def test_colour_is_compared_class_by_class_where_both_sets_have_classes(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"metrics": ("colour",)})
    document = score(real, synthetic, tmp_path / "scores.json", settings)
    names = {row["name"] for row in document["scores"]}
    assert {f"saturation-distance/{label}" for label in real.card.labels} <= names
    assert len(names) == 8 * (1 + len(real.card.labels))
    without = replace(
        synthetic, records=tuple(one.model_copy(update={"label": None}) for one in synthetic.records)
    )
    document = score(real, without, tmp_path / "scores.json", settings)
    assert len(document["scores"]) == 8


def test_too_few_held_out_images_leave_the_other_scores(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path
) -> None:
    (tmp_path / "privacy.json").write_text("{}")
    settings = SETTINGS.model_copy(update={"false_positive_rate": 0.01})
    document = score(real, synthetic, tmp_path / "scores.json", settings)
    assert document["scores"][0]["name"] == "kid"
    (reason,) = document["not_computed"]
    assert reason.startswith("privacy: ")
    assert "199 held-out images, got 41" in reason
    # What an earlier attempt left would pass for the audit of these images.
    assert not (tmp_path / "privacy.json").exists()


def test_data_set_without_splits_cannot_be_audited(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path
) -> None:
    whole = replace(real, records=tuple(one.model_copy(update={"split": None}) for one in real.records))
    settings = SETTINGS.model_copy(update={"metrics": ("privacy",)})
    files = files_of_dataset(whole), files_of_dataset(synthetic)
    with pytest.raises(DataError, match="has no split train; the audit needs the images trained on"):
        score_files(*files, settings, tmp_path / "s.json", seed=0, device="cpu", trained_on=whole)


def test_images_of_an_untrained_model_are_not_audited(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path
) -> None:
    (tmp_path / "privacy.json").write_text("{}")
    files = files_of_dataset(real.select(split="test")), files_of_dataset(synthetic)
    settings = SETTINGS.model_copy(update={"metrics": ("kid", "privacy")})
    document = score_files(*files, settings, tmp_path / "scores_untrained.json", seed=0, device="cpu")
    assert [row["name"] for row in document["scores"]] == ["kid"]
    assert "not_computed" not in document
    assert (tmp_path / "privacy.json").is_file()


def test_metrics_that_need_absent_weights_leave_colour(
    real: ImageDataset, synthetic: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDGEN_INCEPTION", raising=False)
    settings = SETTINGS.model_copy(update={"extractor": "inception:2048"})
    document = score(real, read_image_folder(synthetic.root), tmp_path / "scores.json", settings)
    assert document["scores"][0]["name"] == "colour-mean-red"
    assert [reason.partition(":")[0] for reason in document["not_computed"]] == ["kid", "privacy"]
    assert all("no weights of the FID Inception network" in reason for reason in document["not_computed"])
