"""What the commands do; heavy imports are inside them."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen_metrics.console.failures import LIMIT_EXCEEDED, OK, PARTIAL, UsageError, UsageErrors
from medgen_metrics.console.output import Progress, audit_lines, print_note, print_result, score_lines


def score(options: argparse.Namespace) -> int:
    """Score one folder of images against another."""
    from medgen_metrics.evaluate import score_image_files
    from medgen_metrics.features.loading import check_extractor_name
    from medgen_metrics.image_sets import list_image_classes, list_image_files
    from medgen_metrics.score import write_scores
    from medgen_metrics.score_config import ScoreConfig

    sets = options.real, options.synthetic
    wanted = {
        "num_splits": options.num_splits,
        "metrics": None if options.metrics is None else words(options.metrics),
        "k": options.k,
        "seed": options.seed,
        **image_settings(options),
    }
    with UsageErrors():
        check_extractor_name(options.extractor)
        given = {name: value for name, value in wanted.items() if value is not None}
        config = ScoreConfig(extractor=options.extractor, **given)
    if options.classes is not None and "colour" not in config.metrics:
        raise UsageError("--classes is for the metric colour; add it to --metrics, or leave --classes out")
    real, synthetic = (list_image_files(source) for source in sets)
    config = replace(config, sixteen_bit_range=sixteen_bit_range(options, (*real, *synthetic)))
    no_classes: tuple[tuple[str, ...], ...] = ((), ())
    classes = (
        no_classes
        if options.classes is None
        else tuple(list_image_classes(one, options.classes) for one in sets)
    )
    with Progress("images") as progress:
        sheet = score_image_files(
            real,
            synthetic,
            config,
            features_dir=options.features_dir,
            classes=(classes[0], classes[1]),
            device=options.device,
            on_progress=progress,
        )
    if options.out is not None:
        write_scores(options.out, sheet)
    print_result(sheet.to_json(), score_lines(sheet), as_json=options.json)
    return PARTIAL if sheet.not_computed else OK


def extract(options: argparse.Namespace) -> int:
    """Compute the features of a folder."""
    from medgen_metrics.extract import extract_features
    from medgen_metrics.feature_files import write_features
    from medgen_metrics.features.loading import check_extractor_name, load_extractor
    from medgen_metrics.image_sets import list_image_files
    from medgen_metrics.score import ExtractorRef

    with UsageErrors():
        check_extractor_name(options.extractor)
    files = list_image_files(options.folder)
    extractor = load_extractor(options.extractor, weights_file=options.weights, device=options.device)
    settings = {} if options.batch_size is None else {"batch_size": options.batch_size}
    settings["sixteen_bit_range"] = sixteen_bit_range(options, files)
    with Progress("images") as progress:
        extracted = extract_features(
            files, extractor, features_dir=options.features_dir, on_progress=progress, **settings
        )
    if options.out is not None:
        write_features(options.out, extracted.feature_set)
    space = extracted.feature_set.space
    result = {
        "num_images": len(files),
        "fingerprint": extracted.fingerprint,
        "extractor": ExtractorRef(
            space.extractor_id, space.extractor_sha256, space.extractor_revision
        ).to_json(),
        "preprocessing": space.preprocessing,
        "dim": space.dim,
        "comparable": space.comparable,
        "features_dir": str(options.features_dir),
        "features_file": None if options.out is None else str(options.out),
    }
    lines = [
        f"{len(files)} images, {space.dim} features each",
        f"extractor      {space.extractor_id}, sha256 {space.extractor_sha256[:16]}",
        f"preprocessing  {space.preprocessing}",
        f"cached in      {options.features_dir}",
    ]
    lines += [] if options.out is None else [f"written to     {options.out}"]
    lines += [] if space.comparable else ["", "! random weights: not comparable with anything else"]
    print_result(result, lines, as_json=options.json)
    return OK


def audit(options: argparse.Namespace) -> int:
    """Audit a folder of synthetic images for copies; exit over a limit."""
    from medgen_metrics.image_sets import list_image_files
    from medgen_metrics.pairs_sheet import write_pairs_sheet
    from medgen_metrics.privacy import AuditConfig, audit_image_files, write_audit

    if options.max_copy_rate is not None and not 0 <= options.max_copy_rate <= 1:
        raise UsageError(f"--max-copy-rate must be 0 to 1, got {options.max_copy_rate:g}")
    wanted = {
        "extractors": None if options.extractor is None else tuple(options.extractor),
        "views": None if options.views is None else words(options.views),
        "false_positive_rate": options.false_positive_rate,
        "num_pairs": options.top,
        "keep_leaks": options.keep_leaks,
        **image_settings(options),
    }
    with UsageErrors():
        config = AuditConfig(**{name: value for name, value in wanted.items() if value is not None})
    train, synthetic, holdout = (
        list_image_files(folder) for folder in (options.train, options.synthetic, options.holdout)
    )
    config = replace(config, sixteen_bit_range=sixteen_bit_range(options, (*train, *synthetic, *holdout)))
    with Progress("views of images") as progress:
        result = audit_image_files(
            train,
            synthetic,
            holdout,
            config,
            features_dir=options.features_dir,
            device=options.device,
            on_progress=progress,
        )
    if options.out is not None:
        write_audit(options.out, result)
    if options.pairs_sheet is not None and result.pairs:
        write_pairs_sheet(options.pairs_sheet, result.pairs, sixteen_bit_range=config.sixteen_bit_range)
    limit = options.max_copy_rate
    exceeded = limit is not None and result.copy_rate > limit
    verdict = {"max_copy_rate": limit, "limit_exceeded": exceeded}
    print_result({**result.to_json(), **verdict}, audit_lines(result, limit), as_json=options.json)
    if exceeded:
        print_note(f"copy rate {result.copy_rate:.4f} is over --max-copy-rate {limit:g}")
    return LIMIT_EXCEEDED if exceeded else OK


def image_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says about images, None where it says nothing."""
    return {"batch_size": options.batch_size, "weights_file": options.weights}


def sixteen_bit_range(options: argparse.Namespace, image_files: Sequence[Path]) -> tuple[int, int]:
    """Return the grey values that become 0 and 255, looking for them in all images if that is asked for.

    Raises:
        UsageError: If --sixteen-bit-range is none of full, auto and LOW..HIGH.
    """
    from medgen_metrics.image_decoding import FULL_16_BIT, find_sixteen_bit_range

    text: str = options.sixteen_bit_range
    if text == "full":
        return FULL_16_BIT
    if text == "auto":
        return find_sixteen_bit_range(image_files)
    low, dots, high = text.partition("..")
    if not dots or not low.isdecimal() or not high.isdecimal() or int(low) >= int(high):
        raise UsageError(f"--sixteen-bit-range must be full, auto or LOW..HIGH, e.g. 0..4095, got {text!r}")
    return int(low), int(high)


def words(text: str) -> tuple[str, ...]:
    """Split a list of words, by commas or spaces."""
    return tuple(word for word in text.replace(",", " ").split() if word)
