"""Scores per prompt from image files: Fidelity beside its ceiling, Agreement, Diversity, FBD, with provenance."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medgen_metrics.atomic import write_atomic
from medgen_metrics.extract import ExtractedSet, extract_features
from medgen_metrics.feature_files import FeatureSet
from medgen_metrics.features.loading import load_extractor
from medgen_metrics.image_decoding import FULL_16_BIT
from medgen_metrics.intervals import Estimate
from medgen_metrics.prompt_files import ObjectiveImages
from medgen_metrics.prompts import Objective, PromptProtocol, PromptScores, prompt_scores
from medgen_metrics.score import ExtractorRef
from medgen_metrics.score_warnings import image_set_warnings

_ESTIMATORS = {
    "fidelity": "mean over objectives of 1000 / (1 + mean Frechet distance of the prompts)",
    "fidelity-ceiling": "the fidelity of real images drawn in place of the generated ones",
    "agreement": "mean over objectives of the mean cosine between the images of both wordings",
    "diversity": "mean over prompts of the mean distance between two L2-normalised features",
    "fbd": "Frechet distance of all images against all real ones; counts once for each objective",
}


@dataclass(frozen=True)
class PromptConfig:
    """How images of prompts are scored."""

    extractor: str = "efficientnet-lite0"
    protocol: PromptProtocol = "all"
    seed: int = 0  # of the bootstrap over objectives and of the ceiling
    batch_size: int = 32
    weights_file: Path | None = None  # None: the installed weights
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT

    def __post_init__(self) -> None:
        if self.protocol not in {"all", "medvqa2025"}:
            raise ValueError(f"protocol must be 'medvqa2025' or 'all', got {self.protocol!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class PromptSheet:
    """Scores per prompt, and what they were computed from."""

    scores: PromptScores
    extractor: ExtractorRef
    preprocessing: str
    num_real: int  # distinct files
    num_synthetic: int
    real_fingerprint: str
    synthetic_fingerprint: str
    warnings: tuple[str, ...]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The scores by name; those that could not be computed are left out."""
        named = {
            "fidelity": self.scores.fidelity,
            "fidelity-ceiling": self.scores.fidelity_ceiling,
            "agreement": self.scores.agreement,
            "diversity": self.scores.diversity,
            "fbd": self.scores.fbd,
        }
        return {name: estimate for name, estimate in named.items() if estimate is not None}

    @property
    def not_computed(self) -> tuple[str, ...]:
        """Name and reason of scores and objectives that could not be computed."""
        reasons = [f"objective {reason}" for reason in self.scores.skipped]
        if self.scores.fidelity_ceiling is None:
            reasons.append("fidelity-ceiling: no objective has two more real images than generated ones")
        if self.scores.agreement is None:
            reasons.append("agreement: no objective has two wordings")
        return tuple(reasons)

    def to_json(self) -> dict[str, Any]:
        """Return the sheet as a JSON object; an error that one objective alone cannot tell is null."""
        return {
            "scores": [self._row(name, estimate) for name, estimate in self.estimates.items()],
            "objectives": [
                {
                    "name": row.objective.name,
                    "fidelity": row.fidelity,
                    "frechet": list(row.frechet),
                    "agreement": row.agreement,
                    "diversity": list(row.diversity),
                    "num_real": row.num_real,
                }
                for row in self.scores.objectives
            ],
            "not_computed": list(self.not_computed),
            "protocol": self.scores.protocol,
            "real_fingerprint": self.real_fingerprint,
            "synthetic_fingerprint": self.synthetic_fingerprint,
        }

    def _row(self, name: str, estimate: Estimate) -> dict[str, Any]:
        return {
            "name": name,
            "value": estimate.value,
            "standard_error": _finite(estimate.standard_error),
            "interval": [_finite(end) for end in estimate.interval],
            "num_real": self.num_real,
            "num_synthetic": self.num_synthetic,
            "num_objectives": len(self.scores.objectives),
            "extractor": self.extractor.to_json(),
            "preprocessing": self.preprocessing,
            "estimator": f"{_ESTIMATORS[name]}; protocol {self.scores.protocol}; interval over objectives",
            "seed": self.scores.seed,
            "warnings": list(self.warnings),
        }


def score_prompt_files(
    objectives: Sequence[ObjectiveImages],
    config: PromptConfig,
    *,
    features_dir: Path,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> PromptSheet:
    """Score the images of prompts; an image that serves several objectives is encoded once.

    Args:
        objectives: Generated and real images of each objective, in the order of the challenge.
        config: How to score.
        features_dir: Features are cached here, by image content.
        device: Where the extractor runs.
        on_progress: Called with (images ready, images in all).

    Raises:
        ImageFileError: If a file cannot be decoded.
        MissingWeightsError: If the extractor has no weights on this machine.
        ValueError: If not one objective can be scored. Those that cannot are named in `not_computed`.
    """
    extractor = load_extractor(config.extractor, weights_file=config.weights_file, device=device)
    real_files = _distinct(file for one in objectives for file in one.real)
    generated_files = _distinct(file for one in objectives for file in (*one.original, *one.rephrased))
    extracted = extract_features(
        (*real_files, *generated_files),
        extractor,
        features_dir=features_dir,
        batch_size=config.batch_size,
        sixteen_bit_range=config.sixteen_bit_range,
        on_progress=on_progress,
    )
    num_real = len(real_files)
    real_set, generated_set = _part(extracted, slice(0, num_real)), _part(extracted, slice(num_real, None))
    features = extracted.feature_set.features
    row_of_real = {file: row for row, file in enumerate(real_files)}
    row_of_generated = {file: num_real + row for row, file in enumerate(generated_files)}
    generated: dict[str, Tensor] = {}
    named = []
    for one in objectives:
        prompts = {role: f"{one.name} ({role})" for role in ("original", "rephrased")}
        for role, files in (("original", one.original), ("rephrased", one.rephrased)):
            if files:
                generated[prompts[role]] = features[[row_of_generated[file] for file in files]]
        named.append(
            Objective(one.name, prompts["original"], prompts["rephrased"] if one.rephrased else None)
        )
    real = {one.name: features[[row_of_real[file] for file in one.real]] for one in objectives if one.real}
    scores = prompt_scores(generated, real, named, protocol=config.protocol, seed=config.seed)
    space = extracted.feature_set.space
    return PromptSheet(
        scores=scores,
        extractor=ExtractorRef(space.extractor_id, space.extractor_sha256, space.extractor_revision),
        preprocessing=space.preprocessing,
        num_real=num_real,
        num_synthetic=len(generated_files),
        real_fingerprint=real_set.fingerprint,
        synthetic_fingerprint=generated_set.fingerprint,
        warnings=(
            *image_set_warnings(real_set, generated_set, sixteen_bit_range=config.sixteen_bit_range),
            *_space_warnings(extracted.feature_set),
        ),
    )


def write_prompt_sheet(sheet_file: Path, sheet: PromptSheet) -> None:
    """Write the scores of prompts as JSON, atomically."""
    text = json.dumps(sheet.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(sheet_file, f"{text}\n".encode())


def _distinct(files: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(files))


def _part(extracted: ExtractedSet, rows: slice) -> ExtractedSet:
    whole = extracted.feature_set
    part = FeatureSet(whole.features[rows], whole.record_ids[rows], whole.space)
    return ExtractedSet(extracted.files[rows], part)


def _space_warnings(feature_set: FeatureSet) -> list[str]:
    space = feature_set.space
    warnings = list(space.cautions)
    if not space.comparable:
        warnings.append("the extractor has random weights: not comparable with any other figure")
    if "biomedclip" not in space.extractor_id.lower() or not space.extractor_id.endswith("#cls"):
        warnings.append(
            f"the challenge defines these scores on the class token of the BiomedCLIP ViT, these are on "
            f"{space.extractor_id}: not comparable with its tables"
        )
    return warnings


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
