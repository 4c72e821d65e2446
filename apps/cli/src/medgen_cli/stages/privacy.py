"""Privacy: are there training images among the synthetic ones? The audit of the metrics package, on a data set."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen_data.atomic import write_json_atomic
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

from medgen_cli.settings import ScoreSettings

if TYPE_CHECKING:
    from medgen_metrics.privacy import PrivacyAudit

AUDIT_NAME = "privacy.json"
PAIRS_SHEET_NAME = "pairs_sheet.png"
COPY_RATE = "copy-rate"


@dataclass(frozen=True)
class TrainingImages:
    """What the generator was trained on, and real images of other patients that it never saw; file -> record id."""

    train: Mapping[Path, str]
    holdout: Mapping[Path, str]


def training_images(dataset: ImageDataset) -> TrainingImages:
    """Return the training and the test images of a data set.

    Images of the validation split are neither: they chose among weights.

    Raises:
        DataError: If the data set has no such splits.
    """
    by_split = {}
    for split in ("train", "test"):
        records = [record for record in dataset.records if record.split == split]
        if not records:
            raise DataError(
                f"{dataset.root}: has no split {split}; the audit needs the images trained on and others held out. "
                "For folders without splits there is `medgen-metrics audit`"
            )
        by_split[split] = {dataset.image_file(record): record.record_id for record in records}
    return TrainingImages(by_split["train"], by_split["test"])


def audit_images(
    images: TrainingImages,
    synthetic: Mapping[Path, str],
    settings: ScoreSettings,
    scores_dir: Path,
    *,
    seed: int,
    device: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Audit synthetic images, and write `privacy.json` and a sheet of the most suspicious pairs.

    Args:
        images: Training and held-out images.
        synthetic: Synthetic images, file -> record id.
        settings: Extractor and false-positive rate; small pixels are always a second space.
        scores_dir: Folder of the results, and of the feature cache.
        seed: For the record; nothing here is random.
        device: Where tensors live.
        on_progress: Called with (views of images ready, in all).

    Returns:
        The copy rate as a row of `scores.json`.

    Raises:
        DataError: If the sets cannot be audited: too few held-out images, or held-out ones that were trained on.
        ImageFileError: If an image cannot be read.
        MissingWeightsError: If the weights of the extractor are not on this machine.
    """
    from medgen_metrics.pairs_sheet import write_pairs_sheet
    from medgen_metrics.privacy import AuditConfig, AuditDataError, audit_image_files

    config = AuditConfig(
        extractors=(settings.extractor, "pixels:8"),
        false_positive_rate=settings.false_positive_rate,
        batch_size=settings.batch_size,
    )
    try:
        audit = audit_image_files(
            tuple(images.train),
            tuple(synthetic),
            tuple(images.holdout),
            config,
            features_dir=scores_dir / "features",
            device=device,
            on_progress=on_progress,
        )
    except AuditDataError as error:
        raise DataError(str(error)) from error
    if audit.pairs:
        write_pairs_sheet(scores_dir / PAIRS_SHEET_NAME, audit.pairs)
    audit = _with_record_ids(audit, {**images.train, **images.holdout, **synthetic})
    write_json_atomic(scores_dir / AUDIT_NAME, audit.to_json())
    return _copy_rate(audit, seed)


def _with_record_ids(audit: "PrivacyAudit", names: Mapping[Path, str]) -> "PrivacyAudit":
    # Paths would tell where the run folder lies, and be wrong when it is moved.
    by_path = {file.as_posix(): record_id for file, record_id in names.items()}
    flagged, pairs = (
        tuple(
            replace(pair, synthetic_id=by_path[pair.synthetic_id], train_id=by_path[pair.train_id])
            for pair in some
        )
        for some in (audit.flagged, audit.pairs)
    )
    spaces = tuple(
        replace(space, leaked_holdout_ids=tuple(by_path[file] for file in space.leaked_holdout_ids))
        for space in audit.spaces
    )
    warnings = tuple(_without_paths(warning, by_path) for warning in audit.warnings)
    return replace(audit, flagged=flagged, pairs=pairs, spaces=spaces, warnings=warnings)


def _without_paths(text: str, names: Mapping[str, str]) -> str:
    for path, record_id in names.items():
        text = text.replace(path, record_id)
    return text


def _copy_rate(audit: "PrivacyAudit", seed: int) -> dict[str, Any]:
    from medgen_metrics import ExtractorRef, Score

    rate, number = audit.copy_rate, audit.num_synthetic
    extractors = [space.extractor for space in audit.spaces]
    together = hashlib.sha256("".join(extractor.sha256 for extractor in extractors).encode()).hexdigest()
    revisions = [extractor.revision for extractor in extractors if extractor.revision]
    return Score(
        name=COPY_RATE,
        value=rate,
        standard_error=math.sqrt(rate * (1 - rate) / number),
        interval=audit.interval,
        num_real=audit.num_train,
        num_synthetic=number,
        extractor=ExtractorRef(
            " + ".join(extractor.id for extractor in extractors), together, ", ".join(revisions) or None
        ),
        preprocessing="; ".join(space.preprocessing for space in audit.spaces),
        estimator=(
            f"share of samples nearer to a training image than the thresholds, calibrated on {audit.num_holdout} "
            f"held-out images at a false-positive rate of {audit.false_positive_rate:g}: "
            f"{audit.expected_by_chance:.1f} expected by chance; Wilson interval"
        ),
        seed=seed,
        warnings=audit.warnings,
    ).to_json()
