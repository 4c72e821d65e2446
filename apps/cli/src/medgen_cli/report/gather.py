"""Read a run folder into one frozen record; a stage that was not run is None, a broken file is an error.

Nothing is computed here and nothing is written: `docs/formats.md` describes every file that is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medgen_data.captions import CaptionRow, read_captions
from medgen_data.image_folder import ImageDataset, read_image_folder
from medgen_data.problems import DataError, Problem

from medgen_cli.report.sheets import (
    Classification,
    PrivacyAudit,
    Recognition,
    RunSheet,
    ScoreFile,
    TrainRow,
    read_rows,
    read_sheet,
)

REPORT_STAGE = "report"  # its own record changes with every report, so the page leaves it out


@dataclass(frozen=True)
class RunFacts:
    """What a run folder holds."""

    run: RunSheet | None
    recipe_text: str | None
    dataset: ImageDataset | None
    synthetic: ImageDataset | None
    untrained: ImageDataset | None
    captions: Mapping[str, CaptionRow] | None
    train_rows: tuple[TrainRow, ...] | None
    contact_sheet_file: Path | None
    scores: ScoreFile | None
    scores_untrained: ScoreFile | None
    privacy: PrivacyAudit | None
    classification: Classification | None
    recognition: Recognition | None
    problems: tuple[Problem, ...]

    @property
    def unfinished_stages(self) -> dict[str, str]:
        """Stages that did not end well, and how they ended; the report's own stage does not count."""
        stages = self.run.stages if self.run else {}
        return {
            name: stage.status
            for name, stage in stages.items()
            if name != REPORT_STAGE and stage.status != "complete"
        }


def gather_run(run_dir: Path) -> RunFacts:
    """Read everything the report shows.

    Args:
        run_dir: Run folder.

    Returns:
        Its content; a stage that left no files is None.

    Raises:
        DataError: If the folder is missing or a file in it is malformed; the file and the field are named.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir} is not a run folder; expected the folder that `medgen run` wrote")
    contact_sheet_file = run_dir / "train" / "contact_sheet.png"
    return RunFacts(
        run=read_sheet(run_dir / "run.json", RunSheet),
        recipe_text=_read_text(run_dir / "recipe.yaml"),
        dataset=_read_dataset(run_dir / "data" / "dataset"),
        synthetic=_read_dataset(run_dir / "synthetic" / "dataset"),
        untrained=_read_dataset(run_dir / "synthetic" / "untrained"),
        captions=_read_captions(run_dir / "captions" / "captions.jsonl"),
        train_rows=read_rows(run_dir / "train" / "train_log.jsonl", TrainRow),
        contact_sheet_file=contact_sheet_file if contact_sheet_file.is_file() else None,
        scores=read_sheet(run_dir / "scores" / "scores.json", ScoreFile),
        scores_untrained=read_sheet(run_dir / "scores" / "scores_untrained.json", ScoreFile),
        privacy=read_sheet(run_dir / "scores" / "privacy.json", PrivacyAudit),
        classification=read_sheet(run_dir / "classify" / "classification.json", Classification),
        recognition=read_sheet(run_dir / "classify" / "recognition.json", Recognition),
        problems=_read_problems(run_dir),
    )


def _read_text(text_file: Path) -> str | None:
    return text_file.read_text(encoding="utf-8") if text_file.is_file() else None


def _read_dataset(dataset_dir: Path) -> ImageDataset | None:
    # The card is written last, so a folder without one is a stage that was stopped half-way.
    return read_image_folder(dataset_dir) if (dataset_dir / "dataset.json").is_file() else None


def _read_captions(captions_file: Path) -> Mapping[str, CaptionRow] | None:
    return read_captions(captions_file) if captions_file.is_file() else None


def _read_problems(run_dir: Path) -> tuple[Problem, ...]:
    problem_files = sorted(run_dir.glob("*/problems.jsonl")) + sorted(run_dir.glob("*/*/problems.jsonl"))
    return tuple(problem for file in problem_files for problem in read_rows(file, Problem) or ())
