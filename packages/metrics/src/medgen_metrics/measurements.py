"""Features of two sets -> named numbers, one function for each metric.

Shapes: N1 real and N2 synthetic images, D feature width, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from medgen_metrics.colour import ColourComparison, ColourReport
from medgen_metrics.frechet import frechet_estimate
from medgen_metrics.frechet_limit import frechet_limit
from medgen_metrics.inception_score import inception_score, split_estimates
from medgen_metrics.intervals import Estimate, normal_estimate
from medgen_metrics.kernel import kernel_distance, kernel_distance_of_subsets
from medgen_metrics.prdc import prdc
from medgen_metrics.score_config import ScoreConfig


@dataclass(frozen=True)
class Measurement:
    """One number, and how it was computed."""

    name: str
    estimate: Estimate
    estimator: str
    counts: tuple[int, int] | None = None  # real and synthetic images, if not all of the two sets
    warnings: tuple[str, ...] = ()


def measure_frechet(real: Tensor, synthetic: Tensor, _config: ScoreConfig) -> list[Measurement]:
    """Measure the Frechet distance of features [N1, D] and [N2, D]."""
    estimator = "unbiased covariances; interval by influence function"
    return [Measurement("frechet", frechet_estimate(real, synthetic), estimator)]


def measure_frechet_limit(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[Measurement]:
    """Measure the Frechet distance of infinitely many images from features [N1, D] and [N2, D]."""
    found = frechet_limit(real, synthetic, extrapolated=config.extrapolated, seed=config.seed)
    sets = "both sets" if config.extrapolated == "both" else "the synthetic set"
    estimator = (
        f"extrapolated to infinitely many images of {sets} from {len(found.distances)} subsets; "
        "interval by influence function and scatter around the line"
    )
    return [Measurement("frechet-limit", found.limit, estimator)]


def measure_kid(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[Measurement]:
    """Measure the kernel distance of features [N1, D] and [N2, D]."""
    estimate = kernel_distance(real, synthetic, kernel=config.kernel)
    return [Measurement("kid", estimate, f"all pairs, kernel {config.kernel.name}; interval by jackknife")]


def measure_kid_subsets(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[Measurement]:
    """Measure the kernel distance of features [N1, D] and [N2, D] over random subsets."""
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
    return [Measurement("kid-subsets", normal_estimate(mean, standard_error), estimator)]


def measure_prdc(real: Tensor, synthetic: Tensor, config: ScoreConfig) -> list[Measurement]:
    """Measure precision, recall, F1, density and coverage of features [N1, D] and [N2, D]."""
    values = prdc(real, synthetic, k=config.k, rim=config.rim, seed=config.seed)
    estimator = f"k={config.k}, distance {config.rim} radius; interval by random halves and Wilson"
    names = ("precision", "recall", "f1", "density", "coverage")
    return [Measurement(name, getattr(values, name), estimator) for name in names]


def measure_inception_score(
    logits: Tensor, network: str, config: ScoreConfig, *, num_real: int
) -> list[Measurement]:
    """Measure the Inception Score of class scores of the synthetic images.

    Args:
        logits: Class scores, [N2, C].
        network: Id of the extractor that they come from.
        config: Number of splits, and the seed that deals images into them.
        num_real: Size of the real set, which is not looked at.
    """
    score = inception_score(logits, num_splits=config.num_splits, seed=config.seed)
    smallest, largest = min(score.split_sizes), max(score.split_sizes)
    sizes = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    splits = f"{config.num_splits} splits of {sizes} synthetic images, {logits.shape[1]} classes"
    warnings = []
    if network.partition("@")[0].split(":")[:2] not in (
        ["inception", "2048"],
        ["inception", "logits_unbiased"],
    ):
        warnings.append(
            f"the Inception Score of published tables takes the unbiased class scores of the Inception network, "
            f"this one those of {network}: not comparable with them"
        )
    counts = (num_real, len(logits))
    whole = Measurement(
        "inception-score-whole",
        score.whole,
        f"all synthetic images as one split, {logits.shape[1]} classes; interval by jackknife",
        counts,
        tuple(warnings),
    )
    estimates = split_estimates(score) if config.num_splits > 1 else {}
    by_splits = [
        Measurement(
            f"inception-score{suffix}",
            estimates[statistic],
            f"{statistic} over {splits}; interval for normal scores of splits",
            counts,
            tuple(warnings),
        )
        for statistic, suffix in (("mean", ""), ("std", "-std"), ("median", "-median"))
        if statistic in estimates
    ]
    return [*by_splits, whole]


def measure_colour(report: ColourReport) -> list[Measurement]:
    """Lay out a colour report as numbers; those of a class are named `saturation-distance/CLASS`."""
    measured = _colours_of(report.overall, "")
    for label, comparison in report.per_class.items():
        measured += _colours_of(comparison, f"/{label}")
    return measured


def _colours_of(comparison: ColourComparison, suffix: str) -> list[Measurement]:
    signed = "synthetic minus real, share of full scale; two-sample normal interval"
    values = [
        *((f"colour-mean-{channel}", value, signed) for channel, value in comparison.mean_error.items()),
        *((f"colour-std-{channel}", value, signed) for channel, value in comparison.deviation_error.items()),
        ("saturation-shift", comparison.saturation_shift, signed),
        (
            "saturation-distance",
            comparison.saturation_distance,
            "1-Wasserstein distance of saturation histograms; interval by random halves",
        ),
    ]
    counts = (comparison.num_real, comparison.num_synthetic)
    return [Measurement(f"{name}{suffix}", value, estimator, counts) for name, value, estimator in values]


FeatureMeasure = Callable[[Tensor, Tensor, ScoreConfig], list[Measurement]]
# Metrics that need the features of both sets and nothing else.
OF_FEATURES: dict[str, FeatureMeasure] = {
    "frechet": measure_frechet,
    "kid": measure_kid,
    "prdc": measure_prdc,
    "frechet-limit": measure_frechet_limit,
    "kid-subsets": measure_kid_subsets,
}
