"""`medgen data`: source images become a data set."""

from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Overrides, Seed
from medgen_cli.errors import PartialError
from medgen_cli.output import print_result
from medgen_cli.progress import ProgressLine


def data(
    out: Annotated[Path, typer.Option("--out", metavar="DATASET", help="Folder of the new data set.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="phantoms (drawn, no source needed), image-folder (a data set of ours), class-folders, csv "
            "(labels.csv), ham10000 or medvqa-gi.",
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Source folder.")] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", help="Number of phantoms to draw.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", "--resolution", help="Side of the square images in pixels.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="How images become square: center-crop, pad or squash.")
    ] = None,
    modality: Annotated[str | None, typer.Option("--modality", help="E.g. endoscopic, dermoscopic.")] = None,
    test_fraction: Annotated[
        float | None, typer.Option("--test-fraction", help="Part of every class kept for testing.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Take at most this many source images.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Terms of the source images.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Turn source images into a data set.

    Images are decoded, made square and split; each has one row.

    Images that cannot be read are left out and listed in problems.jsonl; the exit code is then 4. Run the same
    command again to continue.
    """
    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.settings import DataSettings
    from medgen_cli.stages.data import make_dataset

    flags = {
        "kind": kind,
        "root": root,
        "num_images": num_images,
        "size": size,
        "policy": policy,
        "modality": modality,
        "test_fraction": test_fraction,
        "limit": limit,
        "licence": licence,
    }
    changes = overrides or []
    settings = load_section("data", DataSettings, config_file=config, overrides=changes, flags=flags)
    with ProgressLine("data") as progress:
        made = make_dataset(settings, out, seed=recipe_seed(config, changes, seed), on_progress=progress)
    card = made.dataset.card
    problems = [problem.model_dump(mode="json") for problem in made.problems]
    result = {"dataset": str(out), **card.model_dump(mode="json"), "problems": problems}
    lines = [
        f"{out}: {card.num_records} images, {len(card.labels)} classes",
        f"fingerprint {card.fingerprint}",
    ]
    print_result(result, as_json=as_json, lines=lines)
    if problems:
        raise PartialError(
            f"{len(problems)} source images were left out, the first: {made.problems[0]}\n"
            f"all are listed in {out / 'problems.jsonl'}"
        )
