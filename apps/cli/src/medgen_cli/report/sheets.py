"""What the report reads of each JSON file of a run: the fields it shows, checked; other fields may be there.

The files are described in `docs/formats.md`. A file that lacks a field the report needs is refused with the
file and the field named, because a report that silently leaves a figure out would mislead.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from medgen_data.jsonl import iterate_jsonl, read_json_object
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator


def _increasing(interval: tuple[float, float]) -> tuple[float, float]:
    if not interval[0] <= interval[1]:
        raise ValueError(f"an interval goes from low to high, got {interval[0]} to {interval[1]}")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(_increasing)]


class Sheet(BaseModel):
    """A part of a file of the run; fields that the report does not show are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StageSheet(Sheet):
    """One stage in run.json."""

    status: str
    seconds: float = 0.0
    outputs: dict[str, str] = {}
    figures: dict[str, Any] = {}
    num_problems: int = 0


class RunSheet(Sheet):
    """run.json: what does not change between two reports on the same results."""

    name: str
    device: str | None = None
    overrides: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    git_commit: str | None = None
    inputs: dict[str, str] = {}
    stages: dict[str, StageSheet] = {}


class TrainRow(Sheet):
    """One line of train_log.jsonl; stages without a loss, such as caching, have none."""

    stage: str
    step: int
    loss: float | None = None
    images_per_s: float | None = None


class Extractor(Sheet):
    """What turned images into features."""

    id: str
    sha256: str | None = None


class Score(Sheet):
    """One row of scores.json; a score that could not be computed has no value but a warning."""

    name: str
    value: float | None
    standard_error: float | None = None
    interval: Interval | None = None
    num_real: int
    num_synthetic: int
    extractor: Extractor
    preprocessing: str | None = None
    estimator: str | None = None  # settings, and kind of interval
    warnings: tuple[str, ...] = ()


class ScoreFile(Sheet):
    """scores.json."""

    scores: tuple[Score, ...]
    real_fingerprint: str | None = None
    synthetic_fingerprint: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings of the file, each once, in order."""
        return tuple(dict.fromkeys(warning for score in self.scores for warning in score.warnings))

    @property
    def extractors(self) -> tuple[tuple[Extractor, str | None], ...]:
        """What made the features, with the preprocessing before it; each once, in order."""
        return tuple(dict.fromkeys((score.extractor, score.preprocessing) for score in self.scores))


class Figure(Sheet):
    """A number and its 95% interval; no value if it could not be computed."""

    value: float | None
    interval: Interval | None = None


class ClassFigures(Sheet):
    """One row of the per-class table."""

    name: str = Field(alias="class")
    support: int
    precision: Figure
    recall: Figure
    f1: Figure


class Evaluation(Sheet):
    """What one classifier said about one set of images."""

    classes: tuple[str, ...]
    accuracy: Figure
    weighted_f1: Figure
    balanced_accuracy: Figure
    auc: Figure
    confusion_matrix: tuple[tuple[int, ...], ...]  # row: true class, column: predicted class
    per_class: tuple[ClassFigures, ...] = ()
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _matrix_is_square(self) -> "Evaluation":
        size = len(self.classes)
        if len(self.confusion_matrix) != size or any(len(row) != size for row in self.confusion_matrix):
            raise ValueError(f"confusion_matrix must be {size} x {size}, one row and column per class")
        return self

    @property
    def num_images(self) -> int:
        """How many images were judged."""
        return sum(map(sum, self.confusion_matrix))


class Recognised(Sheet):
    """A classifier trained on real images, judging real test images and synthetic ones."""

    real_test: Evaluation
    synthetic: Evaluation


class Recognition(RootModel[dict[str, Recognised]]):
    """recognition.json: one entry per attribute, e.g. `label` or `facts.quadrant`."""

    model_config = ConfigDict(frozen=True)


class Classification(Sheet):
    """classification.json: trained on real or on synthetic images only, both tested on real images."""

    real_only: Evaluation
    synthetic_only: Evaluation
    difference: dict[str, Figure] = {}  # synthetic only minus real only, on the same resamples


SheetType = TypeVar("SheetType", bound=BaseModel)


def read_sheet(json_file: Path, kind: type[SheetType]) -> SheetType | None:
    """Read one JSON file of the run, checked; None if the stage that writes it was not run."""
    return read_json_object(json_file, kind) if json_file.is_file() else None


def read_rows(jsonl_file: Path, kind: type[SheetType]) -> tuple[SheetType, ...] | None:
    """Read a JSONL file of the run, checked row by row; None if it is not there."""
    if not jsonl_file.is_file():
        return None
    return tuple(row for _, row in iterate_jsonl(jsonl_file, kind))
