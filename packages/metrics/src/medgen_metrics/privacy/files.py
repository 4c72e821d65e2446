"""Audit of image files: features from the cache, view by view, one feature space after another."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from medgen_metrics.extract import extract_features
from medgen_metrics.feature_files import FeatureSet
from medgen_metrics.features.loading import check_extractor_name, load_extractor
from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.image_decoding import FULL_16_BIT, read_image_bytes
from medgen_metrics.privacy.audit import PrivacyAudit, SpaceFeatures, audit_features
from medgen_metrics.privacy.calibration import threshold_rank
from medgen_metrics.privacy.pixels import PixelExtractor
from medgen_metrics.privacy.views import CROPS, VIEWS, ViewedExtractor
from medgen_metrics.score import ExtractorRef


class AuditDataError(ValueError):
    """Image sets that cannot be audited: too few held-out images, or held-out images that were trained on."""


@dataclass(frozen=True)
class AuditConfig:
    """In which spaces to look, under which views, and how often to be wrong."""

    extractors: tuple[str, ...] = ("efficientnet-lite0", "pixels:8")
    false_positive_rate: float = 0.01  # over all spaces
    views: tuple[str, ...] = tuple(VIEWS)
    num_pairs: int = 24
    keep_leaks: bool = False  # calibrate also on held-out images that are near copies of training images
    batch_size: int = 32
    weights_file: Path | None = None  # of the one extractor that has weights; None: the installed ones
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT

    def __post_init__(self) -> None:
        if not self.extractors or len(set(self.extractors)) != len(self.extractors):
            raise ValueError(f"extractors must be one or more different names, got {self.extractors}")
        unknown = [view for view in self.views if view not in VIEWS]
        if unknown or "identity" not in self.views or len(set(self.views)) != len(self.views):
            raise ValueError(f"views must be 'identity' and others of {', '.join(VIEWS)}, got {self.views}")
        if not 0 < self.false_positive_rate < 1:
            raise ValueError(
                f"false_positive_rate must be above 0 and below 1, got {self.false_positive_rate}"
            )
        if self.num_pairs < 0 or self.batch_size < 1:
            raise ValueError(
                f"expected num_pairs >= 0 and batch_size >= 1, got {self.num_pairs} and {self.batch_size}"
            )
        with_weights = [name for name in self.extractors if _pixel_size(name) is None]
        for name in with_weights:
            check_extractor_name(name)
        if self.weights_file is not None and len(with_weights) != 1:
            raise ValueError(f"weights_file needs exactly one extractor with weights, got {with_weights}")


def audit_image_files(
    train: Sequence[Path],
    synthetic: Sequence[Path],
    holdout: Sequence[Path],
    config: AuditConfig,
    *,
    features_dir: Path,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> PrivacyAudit:
    """Look for training images among synthetic ones.

    Args:
        train: Files the generator was trained on, 2 at least.
        synthetic: Files it made.
        holdout: Real files it has not seen, of other patients: they say how near an innocent image comes.
        config: How to look.
        features_dir: Features are cached here, by image content and view; a killed audit resumes.
        device: Where the extractors run.
        on_progress: Called with (views of images ready, in all).

    Raises:
        AuditDataError: If there are too few held-out images, or some are training images, byte for byte.
        ImageFileError: If a file cannot be decoded.
        MissingWeightsError: If an extractor has no weights on this machine.
    """
    for name, image_files in (("training", train), ("synthetic", synthetic)):
        if len(image_files) < (2 if name == "training" else 1):
            raise AuditDataError(f"too few {name} images: {len(image_files)}")
    try:
        threshold_rank(len(holdout), config.false_positive_rate, num_spaces=len(config.extractors))
    except ValueError as error:
        raise AuditDataError(str(error)) from error
    warnings = _compare_bytes(train, synthetic, holdout)
    extractors = [_load(name, config, device) for name in config.extractors]
    num_views = len(config.views) * (len(holdout) + len(synthetic))
    # Five more views of a large training set are cheap as pixels, and dear with a network, which crops move less.
    crops = [CROPS if _pixel_size(name) is not None else () for name in config.extractors]
    num_images = sum(len(train) * (1 + len(some)) + num_views for some in crops)
    counter = _Counter(num_images, on_progress)

    def features(image_files: Sequence[Path], extractor: FeatureExtractor) -> FeatureSet:
        return extract_features(
            image_files,
            extractor,
            features_dir=features_dir,
            batch_size=config.batch_size,
            sixteen_bit_range=config.sixteen_bit_range,
            on_progress=counter.part(len(image_files)),
        ).feature_set

    def views(image_files: Sequence[Path], extractor: FeatureExtractor) -> Iterator[tuple[str, Tensor]]:
        for view in config.views:
            yield view, features(image_files, ViewedExtractor(extractor, view)).features

    def spaces() -> Iterator[SpaceFeatures]:
        for extractor, some_crops in zip(extractors, crops, strict=True):
            training = features(train, extractor)
            yield SpaceFeatures(
                ExtractorRef(extractor.id, extractor.sha256, extractor.revision),
                training.space.preprocessing,
                training.features,
                views(holdout, extractor),
                views(synthetic, extractor),
                tuple(
                    (crop, features(train, ViewedExtractor(extractor, crop)).features) for crop in some_crops
                ),
            )

    warnings += [
        f"{extractor.id} has random weights: not comparable with any other audit"
        for extractor in extractors
        if not extractor.comparable
    ]
    warnings += [f"{extractor.id}: {caution}" for extractor in extractors for caution in extractor.cautions]
    return audit_features(
        spaces(),
        num_spaces=len(extractors),
        train_ids=[file.as_posix() for file in train],
        holdout_ids=[file.as_posix() for file in holdout],
        synthetic_ids=[file.as_posix() for file in synthetic],
        false_positive_rate=config.false_positive_rate,
        num_pairs=config.num_pairs,
        keep_leaks=config.keep_leaks,
        warnings=warnings,
    )


class _Counter:
    """Adds up the progress of one extraction after another."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self._total, self._report, self._before = total, on_progress, 0

    def part(self, size: int) -> Callable[[int, int], None]:
        """Return the reporter of the next extraction, of `size` images."""
        before = self._before
        self._before += size

        def report(done: int, _size: int) -> None:
            if self._report is not None:
                self._report(before + done, self._total)

        return report


def _load(name: str, config: AuditConfig, device: str) -> FeatureExtractor:
    size = _pixel_size(name)
    if size is not None:
        return PixelExtractor(size)
    return load_extractor(name, weights_file=config.weights_file, device=device)


def _pixel_size(name: str) -> int | None:
    """Return N of "pixels:N"; None for any other extractor."""
    kind, _, size = name.partition(":")
    return int(size) if kind == "pixels" and size.isdecimal() else None


def _compare_bytes(train: Sequence[Path], synthetic: Sequence[Path], holdout: Sequence[Path]) -> list[str]:
    """Refuse held-out files that are training files; return what else shared bytes say."""
    trained_on, made, kept_apart = (
        {hashlib.sha256(read_image_bytes(file)).hexdigest(): file for file in image_files}
        for image_files in (train, synthetic, holdout)
    )
    leaked = sorted(kept_apart[key] for key in kept_apart.keys() & trained_on.keys())
    if leaked:
        raise AuditDataError(
            f"{len(leaked)} held-out image(s) are training images, byte for byte, e.g. {leaked[0]}; "
            "take them out of one of the two sets"
        )
    warnings = []
    copied = made.keys() & trained_on.keys()
    if copied:
        warnings.append(f"{len(copied)} synthetic image(s) are training images, byte for byte")
    if made.keys() & kept_apart.keys():
        warnings.append(
            f"{len(made.keys() & kept_apart.keys())} synthetic image(s) are held-out images, byte for byte: "
            "has the generator seen the held-out set?"
        )
    for name, distinct, files in (("training", trained_on, train), ("held-out", kept_apart, holdout)):
        if len(distinct) < len(files):
            warnings.append(f"{len(files) - len(distinct)} {name} image(s) are copies of another in the set")
    return warnings
