"""The words of the command line, and the boundary where errors become exit codes."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from medgen_metrics.console import commands, prompt_commands
from medgen_metrics.console.failures import EXIT_CODES_TEXT, describe
from medgen_metrics.console.output import print_note, print_result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after the program's name; None: those of this process.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except BaseException as error:
        if isinstance(error, SystemExit | GeneratorExit) or (options.debug and isinstance(error, Exception)):
            raise
        code, message = describe(error)
        print_note(f"error: {message}")
        if options.json:
            failure = {"exit_code": code, "kind": type(error).__name__, "message": message}
            print_result({"error": failure}, (), as_json=True)
        return code


def default_features_dir() -> Path:
    """Return the folder for cached features: below $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "medgen-metrics"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medgen-metrics",
        description="Scores of generated images against real ones, each with an interval; and a privacy audit.",
        epilog=EXIT_CODES_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_score(added)
    _add_extract(added)
    _add_audit(added)
    _add_prompts(added)
    _add_ranks(added)
    return parser


if TYPE_CHECKING:
    _Added = argparse._SubParsersAction[argparse.ArgumentParser]


def _add_score(added: "_Added") -> None:
    parser = _command(added, "score", commands.score, "score synthetic images against real ones")
    parser.add_argument("real", type=Path, metavar="REAL", help="folder or .zip of real images")
    parser.add_argument(
        "synthetic", type=Path, metavar="SYNTHETIC", help="folder or .zip of synthetic images"
    )
    _add_extractor(parser)
    parser.add_argument(
        "--metrics",
        metavar="A,B",
        help="frechet, kid, prdc (these three by default), frechet-limit, kid-subsets, inception-score, colour",
    )
    parser.add_argument(
        "--classes",
        metavar="FIELD",
        help="compare colour per class too: a field of metadata.jsonl such as label, or `folder`",
    )
    parser.add_argument("--num-splits", type=int, metavar="K", help="splits of inception-score (default: 10)")
    parser.add_argument("--k", type=int, help="neighbour that sets the radius of a ball (default: 3)")
    parser.add_argument("--seed", type=int, help="seed of the random halves behind intervals (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the scores as JSON")


def _add_extract(added: "_Added") -> None:
    parser = _command(added, "extract", commands.extract, "compute features and keep them")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder or .zip of images")
    _add_extractor(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the features as one .safetensors file"
    )


def _add_audit(added: "_Added") -> None:
    parser = _command(
        added,
        "audit",
        commands.audit,
        "look for training images among synthetic ones",
        "A sample is flagged if it is nearer to a training image than real images that were held out ever are: "
        "in any feature space, as it is or under another view. Hold out other patients than those trained on.",
    )
    parser.add_argument("--train", type=Path, metavar="DIR", required=True, help="images trained on")
    parser.add_argument("--synthetic", type=Path, metavar="DIR", required=True, help="images generated")
    parser.add_argument(
        "--holdout", type=Path, metavar="DIR", required=True, help="real images not trained on"
    )
    parser.add_argument(
        "--extractor",
        action="append",
        metavar="NAME",
        help="feature space, may be given several times (default: efficientnet-lite0 and pixels:8)",
    )
    parser.add_argument(
        "--views", metavar="A,B", help="how samples are turned and cropped (default: all; identity is needed)"
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.01,
        metavar="P",
        help="share of innocent samples that may be flagged, over all spaces (default: 0.01)",
    )
    parser.add_argument(
        "--max-copy-rate", type=float, metavar="R", help="exit with code 7 if a larger share is flagged"
    )
    parser.add_argument(
        "--keep-leaks",
        action="store_true",
        help="calibrate also on held-out images that are near copies of training images",
    )
    parser.add_argument("--top", type=int, metavar="K", help="most suspicious pairs to keep (default: 24)")
    parser.add_argument(
        "--pairs-sheet", type=Path, metavar="FILE", help="write those pairs side by side as PNG"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the audit as JSON")


def _add_prompts(added: "_Added") -> None:
    parser = _command(
        added,
        "prompts",
        prompt_commands.prompts,
        "score the images of each prompt: Fidelity, Agreement, Diversity, FBD",
        "PROMPTS is a .csv with the columns objective, role, path, or a .json list of objects with name, original, "
        "rephrased, real. original and rephrased are images generated from the two wordings of an objective, real "
        "are references of it; a path is an image, a folder or a .zip, relative to PROMPTS. Fidelity is printed "
        "beside its ceiling, what real images themselves would reach.",
    )
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help=".csv or .json file of prompts")
    _add_extractor(parser)
    parser.add_argument(
        "--protocol",
        choices=("all", "medvqa2025"),
        default="all",
        help="medvqa2025 scores the first half of the prompts, as the public evaluator does (default: all)",
    )
    parser.add_argument("--seed", type=int, help="seed of the bootstrap and of the ceiling (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the scores as JSON")


def _add_ranks(added: "_Added") -> None:
    parser = _command(
        added,
        "ranks",
        prompt_commands.ranks,
        "compare metrics with the ranks that experts gave",
        "SCORES has the columns prompt, item (what was ranked: a model or an image) and one for each metric; RANKS "
        "has prompt, item, rank (1 is best) and, with several experts, rater. Both are .csv or .jsonl. A metric "
        "that agrees has a correlation near +1 if lower values are better, near -1 if higher ones are.",
        takes_images=False,
    )
    parser.add_argument("scores", type=Path, metavar="SCORES", help="table of metrics")
    parser.add_argument("ranks", type=Path, metavar="RANKS", help="table of expert ranks")
    parser.add_argument("--metrics", metavar="A,B", help="columns of SCORES to compare (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap over prompts (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the agreement as JSON")


def _add_extractor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--extractor",
        default="efficientnet-lite0",
        metavar="NAME",
        help="efficientnet-lite0 (default), inception:2048, hf:NAME_OR_FOLDER, random:SEED, ...",
    )


def _command(
    added: "_Added",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str = "",
    *,
    takes_images: bool = True,
) -> argparse.ArgumentParser:
    """Add a command with the options that all of them share."""
    parser = added.add_parser(
        name,
        help=summary,
        # The formatter keeps lines as they are, for the sake of the exit codes.
        description=fill(f"{summary[0].upper()}{summary[1:]}. {description}".strip(), 100),
        epilog=EXIT_CODES_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    if takes_images:
        _add_image_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weight file of the extractor")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--batch-size", type=int, metavar="B", help="images per forward pass (default: 32)")
    parser.add_argument(
        "--features-dir",
        type=Path,
        default=default_features_dir(),
        metavar="DIR",
        help="cache of features by image content (default: %(default)s)",
    )
    parser.add_argument(
        "--sixteen-bit-range",
        default="full",
        metavar="RANGE",
        help="grey values of 16-bit images that become 0 and 255: LOW..HIGH such as 0..4095, full (default) for "
        "0..65535, auto for the least and largest in all given images; a value outside is an error",
    )
