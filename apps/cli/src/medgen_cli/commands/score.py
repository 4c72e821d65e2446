"""`medgen score`: how close synthetic images are to real ones."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Device, Overrides, Seed
from medgen_cli.output import print_result, table
from medgen_cli.progress import ProgressLine


def score(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Data set, or any folder of images.")],
    synthetic: Annotated[
        Path, typer.Argument(metavar="SYNTHETIC", help="Data set, or any folder of images.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The scores file to write.")] = Path(
        "scores.json"
    ),
    split: Annotated[
        str | None, typer.Option("--split", help="Only this split of REAL: test, train.")
    ] = None,
    extractor: Annotated[str | None, typer.Option("--extractor", help="Feature extractor.")] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="frechet, kid, prdc (the default), frechet-limit, kid-subsets, inception-score, colour, privacy; "
            "may be given again.",
        ),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Neighbours of precision and recall.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images encoded at once.")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", metavar="LIMIT", help='Exit with 7 if e.g. "frechet>60"; may be given again.'
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score synthetic images against real ones.

    Every score comes with a 95% interval. The metric privacy takes REAL for the data set that was trained on: its
    split train is compared, its split test calibrates.
    """
    from medgen_data.image_folder import CARD_NAME, read_image_folder
    from medgen_data.problems import DataError

    from medgen_cli.errors import PartialError
    from medgen_cli.provenance import choose_device
    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.settings import ScoreSettings
    from medgen_cli.stages.scoring import (
        check_limits,
        files_of_folder,
        parse_limits,
        parse_split,
        score_files,
    )

    changes = overrides or []
    flags = {"extractor": extractor, "metrics": metrics or None, "k": k, "batch_size": batch_size}
    settings = load_section("score", ScoreSettings, config_file=config, overrides=changes, flags=flags)
    limits = parse_limits(fail_if or [])
    real_files = files_of_folder(real, split=parse_split(split))
    synthetic_files = files_of_folder(synthetic)
    trained_on = None
    if "privacy" in settings.metrics:
        if not (real / CARD_NAME).is_file():
            raise DataError(
                f"{real}: has no {CARD_NAME}, so it has no split train to look for copies of; import it with "
                "`medgen data`, or use `medgen-metrics audit` on folders"
            )
        trained_on = read_image_folder(real)
    with ProgressLine("score") as progress:
        document = score_files(
            real_files,
            synthetic_files,
            settings,
            out,
            seed=recipe_seed(config, changes, seed),
            device=choose_device(device),
            trained_on=trained_on,
            on_progress=progress,
        )
    rows = [_row(one) for one in document["scores"]]
    lines = [*table(rows, header=["score", "value", "95% interval"]), f"written to {out}"]
    print_result(document, as_json=as_json, lines=lines)
    check_limits(document, limits)
    missing = document.get("not_computed", [])
    if missing:
        raise PartialError(f"{len(missing)} score(s) could not be computed: {'; '.join(missing)}")


def _row(one: dict[str, Any]) -> list[str]:
    value, interval = one["value"], one.get("interval")
    shown = "not computed" if value is None else f"{value:.4g}"
    return [one["name"], shown, f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""]
