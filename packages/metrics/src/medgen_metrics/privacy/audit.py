"""The audit: which samples are nearer to the training set than real images ever are, in any feature space.

One space overlooks what another sees: pixels are blind to a shift, a network to fine texture. A sample is flagged
if *any* space flags it, and each of S spaces gets the rate / S (Bonferroni), so the promised false-positive rate
holds for the sample whatever the spaces have in common. A generator that copies nothing still has about rate x N
of its N samples flagged; a copy rate above that is what counts.

Shapes: N samples, H held-out images, T training images, D feature width of a space.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.atomic import write_atomic
from medgen_metrics.intervals import wilson_interval
from medgen_metrics.privacy.calibration import (
    Threshold,
    as_rate,
    calibrate_threshold,
    leaked_rows,
    threshold_rank,
)
from medgen_metrics.privacy.nearest import NearestTrain, count_authentic, nearest_over_views
from medgen_metrics.score import ExtractorRef


@dataclass(frozen=True)
class SpaceFeatures:
    """One feature space of an audit; `holdout` and `synthetic` may be generators and are read once, in order."""

    extractor: ExtractorRef
    preprocessing: str
    train: Tensor  # [T, D]
    holdout: Iterable[tuple[str, Tensor]]  # view, [H, D]
    synthetic: Iterable[tuple[str, Tensor]]  # the same views, [N, D]
    train_crops: Sequence[tuple[str, Tensor]] = ()  # crops of the training images, [T, D] each


@dataclass(frozen=True)
class SpaceAudit:
    """What one feature space found."""

    extractor: ExtractorRef
    preprocessing: str
    threshold: Threshold
    num_flagged: int
    authenticity: float  # share of samples farther from a training image than that is from its neighbour
    authenticity_interval: tuple[float, float]  # 95%, Wilson
    median_distance_ratio: (
        float  # nearest / second nearest; far below the held-out one: single images are copied
    )
    holdout_median_distance_ratio: float
    median_distance: float
    holdout_median_distance: float
    leaked_holdout_ids: tuple[str, ...]  # near copies of training images, not calibrated on
    nearest: NearestTrain

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the neighbours of every sample, as a JSON object."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "nearest"}
        return {
            **fields,
            "extractor": asdict(self.extractor),
            "threshold": asdict(self.threshold),
            "leaked_holdout_ids": list(self.leaked_holdout_ids),
            "authenticity_interval": list(self.authenticity_interval),
        }


@dataclass(frozen=True)
class CopyPair:
    """A sample beside the training image that it is most suspiciously near to."""

    synthetic_id: str
    train_id: str
    flagged: bool
    suspicion: float  # distance / threshold in the space where that is least; flagged below 1
    space: str  # extractor of that space
    view: str  # how sample or training image was turned or cropped to come so near
    distance: float
    distance_ratio: float


@dataclass(frozen=True)
class PrivacyAudit:
    """Result of an audit."""

    copy_rate: float
    interval: tuple[float, float]  # 95%, Wilson
    num_flagged: int
    num_synthetic: int
    num_train: int
    num_holdout: int
    false_positive_rate: float
    expected_by_chance: float  # samples flagged on average if nothing was copied
    views: tuple[str, ...]
    spaces: tuple[SpaceAudit, ...]
    flagged: tuple[CopyPair, ...]  # every flagged sample, most suspicious first
    pairs: tuple[CopyPair, ...]  # the most suspicious samples, flagged or not
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the audit as a JSON object."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **fields,
            "interval": list(self.interval),
            "views": list(self.views),
            "spaces": [space.to_json() for space in self.spaces],
            "flagged": [asdict(pair) for pair in self.flagged],
            "pairs": [asdict(pair) for pair in self.pairs],
            "warnings": list(self.warnings),
        }


def audit_features(
    spaces: Iterable[SpaceFeatures],
    *,
    num_spaces: int,
    train_ids: Sequence[str],
    holdout_ids: Sequence[str],
    synthetic_ids: Sequence[str],
    false_positive_rate: float = 0.01,
    num_pairs: int = 24,
    keep_leaks: bool = False,
    warnings: Sequence[str] = (),
) -> PrivacyAudit:
    """Audit samples in one or more feature spaces.

    Args:
        spaces: The spaces, taken one at a time.
        num_spaces: How many there are; each gets its part of the false-positive rate.
        train_ids: Names of the T training images.
        holdout_ids: Names of the H real images that the generator has not seen; of other patients than the
            training images, or thresholds come out too strict to see copies.
        synthetic_ids: Names of the N samples.
        false_positive_rate: Share of innocent samples that may be flagged.
        num_pairs: How many of the most suspicious pairs to keep, flagged or not.
        keep_leaks: Calibrate also on held-out images that are near copies of training images.
        warnings: What is already known about the images.

    Raises:
        ValueError: If the held-out images are too few for the rate, are no held-out images, or features do not
            match the names.
    """
    # Before hours of work: too few held-out images are refused first.
    threshold_rank(len(holdout_ids), false_positive_rate, num_spaces=num_spaces)
    audited: list[SpaceAudit] = []
    views: set[tuple[str, ...]] = set()
    for space in spaces:
        _check_length("training", space.train, train_ids)
        seen: tuple[list[str], list[str]] = ([], [])
        holdout = _recorded("held-out", space.holdout, holdout_ids, seen[0])
        synthetic = _recorded("synthetic", space.synthetic, synthetic_ids, seen[1])
        near_holdout = nearest_over_views(holdout, space.train, space.train_crops)
        leaked = leaked_rows(near_holdout.ratios) & (not keep_leaks)
        threshold = calibrate_threshold(
            near_holdout.distances[~leaked], false_positive_rate, num_spaces=num_spaces
        )
        leaked_ids = [holdout_ids[row] for row in np.flatnonzero(leaked).tolist()]
        audited.append(_audit_space(space, near_holdout, synthetic, threshold, leaked_ids))
        views |= {tuple(names) for names in seen}
    if len(views) != 1 or len(audited) != num_spaces:
        raise ValueError(
            f"expected {num_spaces} space(s) with the same views of held-out and synthetic images, got "
            f"{len(audited)} with {' / '.join(', '.join(names) for names in sorted(views))}"
        )
    pairs = _rank_pairs(audited, train_ids, synthetic_ids)
    num_flagged = sum(pair.flagged for pair in pairs)
    return PrivacyAudit(
        copy_rate=num_flagged / len(synthetic_ids),
        interval=wilson_interval(num_flagged, len(synthetic_ids)),
        num_flagged=num_flagged,
        num_synthetic=len(synthetic_ids),
        num_train=len(train_ids),
        num_holdout=len(holdout_ids),
        false_positive_rate=float(as_rate(false_positive_rate)),
        expected_by_chance=false_positive_rate * len(synthetic_ids),
        views=views.pop(),
        spaces=tuple(audited),
        flagged=pairs[:num_flagged],
        pairs=pairs[:num_pairs],
        warnings=(*warnings, *_leak_warnings(audited)),
    )


def write_audit(audit_file: Path, audit: PrivacyAudit) -> None:
    """Write an audit as JSON, atomically."""
    text = json.dumps(audit.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(audit_file, f"{text}\n".encode())


def _recorded(
    name: str, views: Iterable[tuple[str, Tensor]], ids: Sequence[str], seen: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Pass views on, checking their lengths and noting their names in `seen`."""
    for view, features in views:
        _check_length(name, features, ids)
        seen.append(view)
        yield view, features


def _audit_space(
    space: SpaceFeatures,
    holdout: NearestTrain,
    synthetic_views: Iterable[tuple[str, Tensor]],
    threshold: Threshold,
    leaked_ids: Sequence[str],
) -> SpaceAudit:
    nearest = nearest_over_views(synthetic_views, space.train, space.train_crops)
    num_authentic = count_authentic(space.train, nearest)
    return SpaceAudit(
        extractor=space.extractor,
        preprocessing=space.preprocessing,
        threshold=threshold,
        num_flagged=int((nearest.distances < threshold.distance).sum()),
        authenticity=num_authentic / len(nearest),
        authenticity_interval=wilson_interval(num_authentic, len(nearest)),
        median_distance_ratio=float(np.median(nearest.ratios)),
        holdout_median_distance_ratio=float(np.median(holdout.ratios)),
        median_distance=float(np.median(nearest.distances)),
        holdout_median_distance=float(np.median(holdout.distances)),
        leaked_holdout_ids=tuple(leaked_ids),
        nearest=nearest,
    )


def _leak_warnings(spaces: Sequence[SpaceAudit]) -> list[str]:
    return [
        f"{len(space.leaked_holdout_ids)} held-out image(s) are near copies of training images and were left out "
        f"of the calibration of {space.extractor.id}, e.g. {space.leaked_holdout_ids[0]}"
        for space in spaces
        if space.leaked_holdout_ids
    ]


def _rank_pairs(
    spaces: Sequence[SpaceAudit], train_ids: Sequence[str], synthetic_ids: Sequence[str]
) -> tuple[CopyPair, ...]:
    """Return a pair for every sample, most suspicious first; flagged ones are those below 1, so they lead."""
    suspicion: NDArray[np.float64] = np.stack(
        [space.nearest.distances / space.threshold.distance for space in spaces]
    )  # [S, N]
    telling = suspicion.argmin(axis=0)
    least = suspicion.min(axis=0)
    pairs = []
    for row in np.argsort(least, kind="stable").tolist():
        space = spaces[telling[row]]
        distance = float(space.nearest.distances[row])
        pairs.append(
            CopyPair(
                synthetic_id=synthetic_ids[row],
                train_id=train_ids[space.nearest.indices[row]],
                # The comparison that the promise is about; a quotient may round to 1.
                flagged=any(one.nearest.distances[row] < one.threshold.distance for one in spaces),
                suspicion=float(least[row]),
                space=space.extractor.id,
                view=space.nearest.views[row],
                distance=distance,
                distance_ratio=float(space.nearest.ratios[row]),
            )
        )
    return tuple(sorted(pairs, key=lambda pair: not pair.flagged))


def _check_length(name: str, features: Tensor, ids: Sequence[str]) -> None:
    if len(features) != len(ids):
        raise ValueError(f"{name} images have {len(ids)} names but {len(features)} feature rows")
