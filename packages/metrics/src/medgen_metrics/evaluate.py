"""Two image sets -> a sheet of scores, with the warnings a reader of the numbers needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medgen_metrics.colour import ColourReport, colour_report
from medgen_metrics.colour_features import COLOUR_ID, ColourExtractor, statistics_of_features
from medgen_metrics.extract import ExtractedSet, extract_many, share_decoding
from medgen_metrics.feature_checks import check_features
from medgen_metrics.feature_files import FeatureSet, require_same_space
from medgen_metrics.features.loading import load_extractor
from medgen_metrics.features.protocol import FeatureExtractor, MissingWeightsError
from medgen_metrics.measurements import OF_FEATURES, Measurement, measure_colour, measure_inception_score
from medgen_metrics.score import ExtractorRef, Score, ScoreSheet
from medgen_metrics.score_config import ScoreConfig
from medgen_metrics.score_warnings import feature_warnings, frechet_warnings, image_set_warnings

Classes = tuple[Sequence[str], Sequence[str]]


class NoScoreError(ValueError):
    """Not one of the metrics can be computed; names the reason of each."""


def score_image_files(
    real: Sequence[Path],
    synthetic: Sequence[Path],
    config: ScoreConfig,
    *,
    features_dir: Path,
    classes: Classes = ((), ()),
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreSheet:
    """Score synthetic images against real ones.

    Args:
        real: Files of the real set.
        synthetic: Files of the synthetic set.
        config: What to compute.
        features_dir: Features are cached here, by image content.
        classes: Class of each real and of each synthetic image, for the metric "colour"; or nothing.
        device: Where the extractor runs.
        on_progress: Called with (features ready, features in all).

    Raises:
        ImageFileError: If a file cannot be decoded.
        MissingWeightsError: If the extractor has no weights on this machine, and each metric needs them.
        NoScoreError: If not one metric can be computed. Those that cannot are named, with the reason, in
            `not_computed` and in the warnings of the others.
    """
    networks, lacking = _load_networks(config, device)
    real_sets, synthetic_sets = _extract_both(
        real, synthetic, networks, config, features_dir=features_dir, on_progress=on_progress
    )
    any_real, any_synthetic = (next(iter(sets.values())) for sets in (real_sets, synthetic_sets))
    warnings = image_set_warnings(any_real, any_synthetic, sixteen_bit_range=config.sixteen_bit_range)
    trials = []
    not_computed = list(lacking)
    for network in networks:
        pair = share_decoding(real_sets[network.id].feature_set, synthetic_sets[network.id].feature_set)
        if network.id == COLOUR_ID:
            trials.append(_Trial("colour", *pair, _colour_measure(*pair, classes, config, not_computed)))
        else:
            trials += _trials_of_features(*pair, config, network)
    order = config.metrics.index
    scores, failed = _scores(
        sorted(trials, key=lambda trial: order(trial.metric)), config, warnings, not_computed
    )
    return ScoreSheet(scores, any_real.fingerprint, any_synthetic.fingerprint, failed)


def score_features(
    real: FeatureSet, synthetic: FeatureSet, config: ScoreConfig, *, warnings: Sequence[str] = ()
) -> tuple[Score, ...]:
    """Score features that are there already.

    Args:
        real: Features of the real set.
        synthetic: Features of the synthetic set; same extractor, weights and preprocessing.
        config: What to compute; `extractor` and image settings are not used.
        warnings: What is already known about the images.

    Raises:
        FeatureFileError: If the sets live in two feature spaces.
        ValueError: If a feature is NaN or infinite.
        NoScoreError: If not one metric can be computed. Those that cannot are named, with the reason, in the
            warnings of the others.
    """
    not_computed = [f"colour: {_NO_IMAGES}"] if "colour" in config.metrics else []
    return _scores(_trials_of_features(real, synthetic, config, None), config, warnings, not_computed)[0]


_NO_IMAGES = "is measured on images, not on features; score the image files"


@dataclass(frozen=True)
class _Trial:
    """A metric that may turn out not to be computable."""

    metric: str
    real: FeatureSet
    synthetic: FeatureSet
    measure: Callable[[], list[Measurement]]


def _load_networks(config: ScoreConfig, device: str) -> tuple[list[FeatureExtractor], list[str]]:
    """Return the networks, and "metric: reason" for what needs one that cannot be had."""
    colour: list[FeatureExtractor] = [ColourExtractor()] if "colour" in config.metrics else []
    others = [metric for metric in config.metrics if metric != "colour"]
    if not others:
        return colour, []
    try:
        network = load_extractor(config.extractor, weights_file=config.weights_file, device=device)
    except (MissingWeightsError, ValueError) as error:
        if not colour:
            raise
        reason = " ".join(str(error).split())
        return colour, [f"{metric}: {reason}" for metric in others]
    return [network, *colour], []


def _extract_both(
    real: Sequence[Path],
    synthetic: Sequence[Path],
    networks: Sequence[FeatureExtractor],
    config: ScoreConfig,
    *,
    features_dir: Path,
    on_progress: Callable[[int, int], None] | None,
) -> list[dict[str, ExtractedSet]]:
    num_features = len(networks) * (len(real) + len(synthetic))
    extracted = []
    for image_files, num_before in ((real, 0), (synthetic, len(networks) * len(real))):

        def report(done: int, _total: int, num_before: int = num_before) -> None:
            if on_progress is not None:
                on_progress(num_before + done, num_features)

        extracted.append(
            extract_many(
                image_files,
                networks,
                features_dir=features_dir,
                batch_size=config.batch_size,
                sixteen_bit_range=config.sixteen_bit_range,
                on_progress=report,
            )
        )
    return extracted


def _trials_of_features(
    real: FeatureSet, synthetic: FeatureSet, config: ScoreConfig, network: FeatureExtractor | None
) -> list[_Trial]:
    require_same_space(real.space, synthetic.space)
    for name, feature_set in (("real", real), ("synthetic", synthetic)):
        check_features(feature_set.features, f"{name} features")
    trials = []
    for metric in config.metrics:
        if metric in OF_FEATURES:

            def measure(metric: str = metric) -> list[Measurement]:
                return OF_FEATURES[metric](real.features, synthetic.features, config)

            trials.append(_Trial(metric, real, synthetic, measure))
        elif metric == "inception-score":

            def measure_classes() -> list[Measurement]:
                return measure_inception_score(
                    _class_scores(synthetic, network),
                    real.space.extractor_id,
                    config,
                    num_real=len(real.features),
                )

            trials.append(_Trial(metric, real, synthetic, measure_classes))
    return trials


def _class_scores(feature_set: FeatureSet, network: FeatureExtractor | None) -> Tensor:
    extractor_id = feature_set.space.extractor_id
    is_inception_layer = extractor_id.split(":")[:2] in (
        ["inception", "logits"],
        ["inception", "logits_unbiased"],
    )
    if is_inception_layer or extractor_id.endswith("#logits"):
        return feature_set.features
    logits: Callable[[Tensor], Tensor] | None = getattr(network, "logits", None)
    if logits is not None:
        return logits(feature_set.features)
    raise ValueError(
        f"needs class scores, which {extractor_id} does not give; take inception:2048, "
        "inception:logits_unbiased, efficientnet-lite0 or hf:NAME_OR_FOLDER#logits"
    )


def _colour_measure(
    real: FeatureSet, synthetic: FeatureSet, classes: Classes, config: ScoreConfig, not_computed: list[str]
) -> Callable[[], list[Measurement]]:
    def measure() -> list[Measurement]:
        report: ColourReport = colour_report(
            statistics_of_features(real),
            statistics_of_features(synthetic),
            real_classes=classes[0],
            synthetic_classes=classes[1],
            seed=config.seed,
        )
        not_computed.extend(f"colour/{label}: {reason}" for label, reason in report.skipped_classes.items())
        return measure_colour(report)

    return measure


def _scores(
    trials: Sequence[_Trial], config: ScoreConfig, warnings: Sequence[str], not_computed: list[str]
) -> tuple[tuple[Score, ...], tuple[str, ...]]:
    """Return the scores, and "metric: reason" of each metric that could not be computed."""
    measured: list[tuple[_Trial, Measurement]] = []
    for trial in trials:
        try:
            measured += [(trial, one) for one in trial.measure()]
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            not_computed.append(f"{trial.metric}: {error}")
    if not measured:
        raise NoScoreError(f"no metric can be computed: {'; '.join(not_computed)}")
    reasons = tuple(f"not computed: {reason}" for reason in not_computed)
    scores = tuple(_score(*one, config.seed, warnings, reasons) for one in measured)
    return scores, tuple(not_computed)


def _score(
    trial: _Trial, one: Measurement, seed: int, warnings: Sequence[str], reasons: Sequence[str]
) -> Score:
    of_distances = frechet_warnings(trial.real, trial.synthetic) if one.name.startswith("frechet") else ()
    num_real, num_synthetic = one.counts or (len(trial.real.features), len(trial.synthetic.features))
    space = trial.real.space
    return Score(
        name=one.name,
        value=one.estimate.value,
        standard_error=one.estimate.standard_error,
        interval=one.estimate.interval,
        num_real=num_real,
        num_synthetic=num_synthetic,
        extractor=ExtractorRef(space.extractor_id, space.extractor_sha256, space.extractor_revision),
        preprocessing=space.preprocessing,
        estimator=one.estimator,
        seed=seed,
        warnings=(
            *warnings,
            *feature_warnings(trial.real, trial.synthetic),
            *reasons,
            *of_distances,
            *one.warnings,
        ),
    )
