"""A score and a sheet of scores, as they are written to `scores.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen_metrics.atomic import write_atomic


class ScoreFileError(ValueError):
    """A `scores.json` that does not keep the format; names the file, the score and the field."""


@dataclass(frozen=True)
class ExtractorRef:
    """Which network a score was computed with."""

    id: str
    sha256: str
    revision: str | None = None  # commit of the hub repository; None: the weights came from elsewhere

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `extractor`."""
        return {"id": self.id, "revision": self.revision, "sha256": self.sha256}


@dataclass(frozen=True)
class Score:
    """One number with everything needed to say what it means."""

    name: str
    value: float
    standard_error: float
    interval: tuple[float, float]  # 95%
    num_real: int
    num_synthetic: int
    extractor: ExtractorRef
    preprocessing: str
    estimator: str  # settings and kind of interval, for readers
    seed: int
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.value, self.standard_error, *self.interval)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"score {self.name!r} must be finite with a finite interval, got {numbers}")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this score."""
        return {
            "name": self.name,
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": list(self.interval),
            "num_real": self.num_real,
            "num_synthetic": self.num_synthetic,
            "extractor": self.extractor.to_json(),
            "preprocessing": self.preprocessing,
            "estimator": self.estimator,
            "seed": self.seed,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class ScoreSheet:
    """The scores of one synthetic set against one real set."""

    scores: tuple[Score, ...]
    real_fingerprint: str
    synthetic_fingerprint: str
    not_computed: tuple[str, ...] = ()  # "metric: reason"

    def __getitem__(self, name: str) -> Score:
        for score in self.scores:
            if score.name == name:
                return score
        missing = "".join(f"; not computed: {reason}" for reason in self.not_computed)
        there_are = ", ".join(score.name for score in self.scores)
        raise KeyError(f"no score {name!r}; there are {there_are}{missing}")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `scores.json`."""
        content: dict[str, Any] = {
            "real_fingerprint": self.real_fingerprint,
            "synthetic_fingerprint": self.synthetic_fingerprint,
            "scores": [score.to_json() for score in self.scores],
        }
        # Left out where it says nothing: sheets in which all is well keep their form.
        return {**content, "not_computed": list(self.not_computed)} if self.not_computed else content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: str = "scores.json") -> "ScoreSheet":
        """Build a sheet from its JSON object.

        Args:
            content: The parsed JSON.
            file: Name for messages.

        Raises:
            ScoreFileError: If a field is missing, unknown or of the wrong type.
        """
        content = {"not_computed": [], **content}
        _check_fields(content, {"real_fingerprint", "synthetic_fingerprint", "scores", "not_computed"}, file)
        not_computed = content["not_computed"]
        if not isinstance(not_computed, list) or not all(isinstance(reason, str) for reason in not_computed):
            raise ScoreFileError(f"{file}: not_computed: expected a list of reasons, got {not_computed!r}")
        scores = tuple(_score(row, f"{file}: scores[{index}]") for index, row in enumerate(content["scores"]))
        fingerprints = str(content["real_fingerprint"]), str(content["synthetic_fingerprint"])
        return cls(scores, *fingerprints, tuple(not_computed))


def write_scores(scores_file: Path, sheet: ScoreSheet) -> None:
    """Write `scores.json`, atomically."""
    text = json.dumps(sheet.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(scores_file, f"{text}\n".encode())


def read_scores(scores_file: Path) -> ScoreSheet:
    """Read `scores.json`.

    Raises:
        ScoreFileError: If it is missing or does not keep the format.
    """
    try:
        content = json.loads(scores_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScoreFileError(f"{scores_file}: no such file") from None
    except ValueError as error:
        raise ScoreFileError(f"{scores_file}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ScoreFileError(f"{scores_file}: expected an object with 'scores', got {type(content).__name__}")
    return ScoreSheet.from_json(content, file=str(scores_file))


_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "value": (int, float),
    "standard_error": (int, float),
    "interval": list,
    "num_real": int,
    "num_synthetic": int,
    "extractor": dict,
    "preprocessing": str,
    "estimator": str,
    "seed": int,
    "warnings": list,
}


def _score(row: Any, where: str) -> Score:
    if not isinstance(row, dict):
        raise ScoreFileError(f"{where}: expected an object, got {type(row).__name__}")
    _check_fields(row, set(_FIELD_TYPES), where)
    for field, expected in _FIELD_TYPES.items():
        if not isinstance(row[field], expected) or isinstance(row[field], bool):
            raise ScoreFileError(f"{where}.{field}: {row[field]!r} has the wrong type")
    extractor = {"revision": None, **row["extractor"]}
    _check_fields(extractor, {"id", "revision", "sha256"}, f"{where}.extractor")
    if len(row["interval"]) != 2:
        raise ScoreFileError(f"{where}.interval: expected two numbers, got {row['interval']!r}")
    low, high = row["interval"]
    fields = {
        **row,
        "interval": (float(low), float(high)),
        "extractor": ExtractorRef(**extractor),
        "warnings": tuple(row["warnings"]),
    }
    return Score(**fields)


def _check_fields(content: Mapping[str, Any], expected: set[str], where: str) -> None:
    missing, unknown = expected - content.keys(), content.keys() - expected
    if missing or unknown:
        raise ScoreFileError(f"{where}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
