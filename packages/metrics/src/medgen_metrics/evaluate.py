"""Two image sets -> a sheet of scores, with the warnings a reader of the numbers needs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medgen_metrics.extract import ExtractedSet, ImageFile, extract_features
from medgen_metrics.feature_checks import check_features
from medgen_metrics.feature_files import FeatureSet, require_same_space
from medgen_metrics.features.loading import load_extractor
from medgen_metrics.frechet import frechet_estimate
from medgen_metrics.frechet_limit import Extrapolated, frechet_limit
from medgen_metrics.image_decoding import FULL_16_BIT
from medgen_metrics.intervals import Estimate, normal_estimate
from medgen_metrics.kernel import (
    KID_KERNEL,
    PolynomialKernel,
    kernel_distance,
    kernel_distance_of_subsets,
)
from medgen_metrics.prdc import Rim, prdc
from medgen_metrics.score import ExtractorRef, Score, ScoreSheet

METRICS = ("frechet", "kid", "prdc", "frechet-limit", "kid-subsets")
DEFAULT_METRICS = ("frechet", "kid", "prdc")


@dataclass(frozen=True)
class ScoreConfig:
    """What to compute, and how."""

    extractor: str = "efficientnet-lite0"
    metrics: tuple[str, ...] = DEFAULT_METRICS
    k: int = 3  # neighbour that sets the radius of a ball, for prdc
    seed: int = 0  # of the random halves behind the intervals of prdc, and of random subsets
    batch_size: int = 32
    rim: Rim = "<="  # whether a ball of prdc holds its rim
    kernel: PolynomialKernel = KID_KERNEL  # of kid and kid-subsets
    num_subsets: int = 100  # of kid-subsets
    subset_size: int = 1000  # of kid-subsets; the smaller set if that has fewer images
    extrapolated: Extrapolated = "synthetic"  # which sets frechet-limit makes infinitely large
    weights_file: Path | None = None  # None: the installed weights
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {self.metrics}")
        if self.k < 1 or self.batch_size < 1:
            raise ValueError(
                f"k and batch_size must be at least 1, got k={self.k}, batch_size={self.batch_size}"
            )


def score_image_files(
    real: Sequence[Path],
    synthetic: Sequence[Path],
    config: ScoreConfig,
    *,
    features_dir: Path,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreSheet:
    """Score synthetic images against real ones.

    Args:
        real: Files of the real set.
        synthetic: Files of the synthetic set.
        config: What to compute.
        features_dir: Features are cached here, by image content.
        device: Where the extractor runs.
        on_progress: Called with (images ready, images in all).

    Raises:
        ImageFileError: If a file cannot be decoded.
        MissingWeightsError: If the extractor has no weights on this machine.
        ValueError: If not one metric can be computed. Those that cannot are named, with the reason, in
            `not_computed` and in the warnings of the others.
    """
    extractor = load_extractor(config.extractor, weights_file=config.weights_file, device=device)
    num_images = len(real) + len(synthetic)
    extracted = []
    for image_files, num_before in ((real, 0), (synthetic, len(real))):

        def report(done: int, _total: int, num_before: int = num_before) -> None:
            if on_progress is not None:
                on_progress(num_before + done, num_images)

        extracted.append(
            extract_features(
                image_files,
                extractor,
                features_dir=features_dir,
                batch_size=config.batch_size,
                sixteen_bit_range=config.sixteen_bit_range,
                on_progress=report,
            )
        )
    real_set, synthetic_set = extracted
    scores, not_computed = _score_each(
        real_set.feature_set,
        synthetic_set.feature_set,
        config,
        image_set_warnings(real_set, synthetic_set),
    )
    return ScoreSheet(scores, real_set.fingerprint, synthetic_set.fingerprint, not_computed)


def score_features(
    real: FeatureSet, synthetic: FeatureSet, config: ScoreConfig, *, warnings: Sequence[str] = ()
) -> tuple[Score, ...]:
    """Score one feature set against another.

    Args:
        real: Features of the real images.
        synthetic: Features of the synthetic images, of the same extractor and preprocessing.
        config: What to compute; `extractor` and image settings are not used.
        warnings: What is already known about the images.

    Raises:
        FeatureFileError: If the sets live in two feature spaces.
        ValueError: If a feature is NaN or infinite, or not one metric can be computed. Those that cannot are
            named, with the reason, in the warnings of the others.
    """
    return _score_each(real, synthetic, config, warnings)[0]


def _score_each(
    real: FeatureSet, synthetic: FeatureSet, config: ScoreConfig, warnings: Sequence[str]
) -> tuple[tuple[Score, ...], tuple[str, ...]]:
    """Return the scores, and "metric: reason" of each metric that these sets are too small for."""
    require_same_space(real.space, synthetic.space)
    for name, feature_set in (("real", real), ("synthetic", synthetic)):
        check_features(feature_set.features, f"{name} features")
    measured: list[_Measured] = []
    not_computed: list[str] = []
    for metric in config.metrics:
        try:
            measured += _MEASUREMENTS[metric](real.features, synthetic.features, config)
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            not_computed.append(f"{metric}: {error}")
    if not measured:
        raise ValueError(f"no metric can be computed: {'; '.join(not_computed)}")
    common = (
        *warnings,
        *_feature_warnings(real, synthetic),
        *(f"not computed: {reason}" for reason in not_computed),
    )
    of_distances = _frechet_warnings(real, synthetic)
    scores = tuple(
        Score(
            name=each.name,
            value=each.estimate.value,
            standard_error=each.estimate.standard_error,
            interval=each.estimate.interval,
            num_real=len(real.features),
            num_synthetic=len(synthetic.features),
            extractor=ExtractorRef(real.space.extractor_id, real.space.extractor_sha256),
            preprocessing=real.space.preprocessing,
            estimator=each.estimator,
            seed=config.seed,
            warnings=(*common, *of_distances) if each.name.startswith("frechet") else common,
        )
        for each in measured
    )
    return scores, tuple(not_computed)


@dataclass(frozen=True)
class _Measured:
    name: str
    estimate: Estimate
    estimator: str


def _frechet(real: Tensor, synthetic: Tensor, _config: ScoreConfig) -> list[_Measured]:
    estimator = "unbiased covariances; interval by influence function"
    return [_Measured("frechet", frechet_estimate(real, synthetic), estimator)]


def _frechet_limit(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[_Measured]:
    found = frechet_limit(real, synthetic, extrapolated=config.extrapolated, seed=config.seed)
    sets = "both sets" if config.extrapolated == "both" else "the synthetic set"
    estimator = (
        f"extrapolated to infinitely many images of {sets} from {len(found.distances)} subsets; "
        "interval by influence function and scatter around the line"
    )
    return [_Measured("frechet-limit", found.limit, estimator)]


def _kid(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[_Measured]:
    estimate = kernel_distance(real, synthetic, kernel=config.kernel)
    return [_Measured("kid", estimate, f"all pairs, kernel {config.kernel.name}; interval by jackknife")]


def _kid_subsets(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[_Measured]:
    size = min(config.subset_size, len(real), len(synthetic))
    mean, spread = kernel_distance_of_subsets(
        real,
        synthetic,
        num_subsets=config.num_subsets,
        subset_size=size,
        kernel=config.kernel,
        seed=config.seed,
    )
    # The spread of subsets says how small they are; the chance in the images is that of all pairs.
    standard_error = kernel_distance(real, synthetic, kernel=config.kernel).standard_error
    estimator = (
        f"mean of {config.num_subsets} subsets of {size} with spread {spread:.6g}, kernel {config.kernel.name}; "
        "interval by jackknife over all pairs"
    )
    return [_Measured("kid-subsets", normal_estimate(mean, standard_error), estimator)]


def _prdc(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[_Measured]:
    values = prdc(real, synthetic, k=config.k, rim=config.rim, seed=config.seed)
    estimator = f"k={config.k}, distance {config.rim} radius; interval by random halves and Wilson"
    names = ("precision", "recall", "f1", "density", "coverage")
    return [_Measured(name, getattr(values, name), estimator) for name in names]


def image_set_warnings(real: ExtractedSet, synthetic: ExtractedSet) -> tuple[str, ...]:
    """Say what about the files may move the scores without a better or worse generator."""
    warnings = []
    for name, images in (("real", real.files), ("synthetic", synthetic.files)):
        warnings += _set_warnings(name, images)
    formats = [sorted({image.facts.file_format for image in images.files}) for images in (real, synthetic)]
    if formats[0] != formats[1]:
        warnings.append(
            f"file formats differ: real {'/'.join(formats[0])}, synthetic {'/'.join(formats[1])}; "
            "JPEG artefacts alone move distances"
        )
    shared = {image.sha256 for image in real.files} & {image.sha256 for image in synthetic.files}
    if shared:
        warnings.append(f"{len(shared)} image(s) are in both sets, byte for byte")
    return tuple(warnings)


def _set_warnings(name: str, images: Sequence[ImageFile]) -> list[str]:
    warnings = []
    sizes = Counter((image.facts.width, image.facts.height) for image in images)
    if len(sizes) > 1:
        (width, height), count = sizes.most_common(1)[0]
        warnings.append(
            f"{name} images have {len(sizes)} sizes ({count} of {len(images)} are {width} x {height}); "
            "all are resized to one square"
        )
    num_copies = len(images) - len({image.sha256 for image in images})
    if num_copies:
        warnings.append(
            f"{num_copies} of {len(images)} {name} images are copies of another in the set, byte for byte"
        )
    num_16_bit = sum(image.facts.is_16_bit for image in images)
    if num_16_bit:
        warnings.append(
            f"{num_16_bit} {name} image(s) have 16 bits and were scaled to 8 over sixteen_bit_range"
        )
    return warnings


def _feature_warnings(real: FeatureSet, synthetic: FeatureSet) -> list[str]:
    warnings = []
    num_real, num_synthetic = len(real.features), len(synthetic.features)
    if num_real != num_synthetic:
        warnings.append(f"set sizes differ: {num_real} real, {num_synthetic} synthetic")
    if not (real.space.comparable and synthetic.space.comparable):
        warnings.append("the extractor has random weights: not comparable with any other figure")
    return warnings


def _frechet_warnings(real: FeatureSet, synthetic: FeatureSet) -> tuple[str, ...]:
    smaller = min(len(real.features), len(synthetic.features))
    if smaller > real.space.dim:
        return ()
    return (
        f"{smaller} images for {real.space.dim} features: the distance is biased upwards, by much; "
        "compare only with scores of equal set sizes",
    )


_MEASUREMENTS: dict[str, Callable[[Tensor, Tensor, ScoreConfig], list[_Measured]]] = {
    "frechet": _frechet,
    "kid": _kid,
    "prdc": _prdc,
    "frechet-limit": _frechet_limit,
    "kid-subsets": _kid_subsets,
}
