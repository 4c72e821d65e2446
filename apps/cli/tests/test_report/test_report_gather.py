from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.report import build_report
from medgen_cli.report.gather import gather_run
from medgen_data.problems import DataError

Edit = Callable[[Path, Callable[[Any], None]], None]


def test_reads_every_stage_of_a_finished_run(finished_run: Path) -> None:
    facts = gather_run(finished_run)
    assert facts.dataset
    assert facts.synthetic
    assert facts.untrained
    assert len(facts.dataset.records) == 96
    assert len(facts.synthetic.records) == 64
    assert facts.captions is not None
    assert len(facts.captions) == 96
    assert {problem.code for problem in facts.problems} == {"truncated", "missing"}
    assert facts.unfinished_stages == {"data": "partial"}


def test_a_data_set_without_its_card_counts_as_not_run(run_dir: Path) -> None:
    (run_dir / "synthetic" / "dataset" / "dataset.json").unlink()
    assert gather_run(run_dir).synthetic is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a run folder; expected the folder"):
        build_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    ["run.json", "scores/scores.json", "classify/classification.json", "classify/recognition.json"],
)
def test_a_file_that_was_cut_off_is_named_and_nothing_is_written(run_dir: Path, name: str) -> None:
    content = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{name} is not JSON"):
        build_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_a_missing_figure_is_named_with_its_field(run_dir: Path, edit_json: Edit) -> None:
    scores_file = run_dir / "scores" / "scores.json"
    edit_json(scores_file, lambda sheet: sheet["scores"][1].pop("num_real"))
    with pytest.raises(DataError, match=r"scores\.json, field scores\.1\.num_real: Field required"):
        gather_run(run_dir)


def test_an_interval_the_wrong_way_round_is_refused(run_dir: Path, edit_json: Edit) -> None:
    scores_file = run_dir / "scores" / "scores.json"
    edit_json(scores_file, lambda sheet: sheet["scores"][0].update(interval=[9, 1]))
    with pytest.raises(DataError, match=r"an interval goes from low to high, got 9\.0 to 1\.0"):
        gather_run(run_dir)


def test_a_confusion_matrix_of_the_wrong_size_is_refused(run_dir: Path, edit_json: Edit) -> None:
    classification_file = run_dir / "classify" / "classification.json"
    edit_json(classification_file, lambda sheet: sheet["real_only"]["confusion_matrix"].pop())
    with pytest.raises(DataError, match=r"field real_only: confusion_matrix must be 4 x 4"):
        gather_run(run_dir)


def test_a_bad_line_of_the_training_log_is_named(run_dir: Path) -> None:
    log_file = run_dir / "train" / "train_log.jsonl"
    log_file.write_text(
        '{"stage": "denoiser", "step": 1, "loss": 0.5}\n{"stage": "denoiser", "step": "two"}\n'
    )
    with pytest.raises(DataError, match=r"train_log\.jsonl, line 2, field step"):
        gather_run(run_dir)
