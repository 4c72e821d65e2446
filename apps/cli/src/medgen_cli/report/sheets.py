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
    revision: str | None = None  # commit of a hub repository
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
    not_computed: tuple[str, ...] = ()  # "metric: reason"

    @property
    def overall(self) -> tuple[Score, ...]:
        """Scores of whole sets."""
        return tuple(score for score in self.scores if "/" not in score.name)

    @property
    def of_classes(self) -> tuple[Score, ...]:
        """Scores of single classes, named SCORE/CLASS."""
        return tuple(score for score in self.scores if "/" in score.name)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings of the file and what could not be computed, each once, in order."""
        warnings = [warning for score in self.scores for warning in score.warnings]
        return tuple(dict.fromkeys([*warnings, *(f"not computed: {reason}" for reason in self.not_computed)]))

    @property
    def extractors(self) -> tuple[tuple[Extractor, str | None], ...]:
        """What made the features, with the preprocessing before it; each once, in order."""
        return tuple(dict.fromkeys((score.extractor, score.preprocessing) for score in self.scores))


class CopyThreshold(Sheet):
    """How near to a training image is too near, in one feature space."""

    distance: float
    false_positive_rate: float
    rate_bound: float  # 95% upper bound of the rate for these held-out images


class CopySpace(Sheet):
    """What one feature space found."""

    extractor: Extractor
    threshold: CopyThreshold
    num_flagged: int
    authenticity: float
    authenticity_interval: Interval
    median_distance_ratio: float
    holdout_median_distance_ratio: float


class CopyPair(Sheet):
    """A synthetic image beside the training image that it is most suspiciously near to."""

    synthetic_id: str
    train_id: str
    flagged: bool
    suspicion: float  # distance as a share of the threshold; flagged below 1
    space: str
    view: str


class PrivacyAudit(Sheet):
    """privacy.json."""

    copy_rate: float
    interval: Interval
    num_flagged: int
    num_synthetic: int
    num_train: int
    num_holdout: int
    false_positive_rate: float
    expected_by_chance: float
    spaces: tuple[CopySpace, ...]
    pairs: tuple[CopyPair, ...] = ()  # most suspicious first
    warnings: tuple[str, ...] = ()


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
