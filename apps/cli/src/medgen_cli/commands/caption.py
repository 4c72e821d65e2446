"""`medgen caption`: a caption for every image of a data set."""

from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Overrides, Seed
from medgen_cli.errors import PartialError
from medgen_cli.output import print_result
from medgen_cli.progress import ProgressLine


def caption(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Data set folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The captions file to write (.jsonl).")],
    method: Annotated[
        str | None, typer.Option("--method", help="measured (from the pixels), simple or empty.")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option("--modality", help="Word for the kind of image; the data set's own by default."),
    ] = None,
    max_words: Annotated[int | None, typer.Option("--max-words", help="Longest caption.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Write one caption per image of a data set.

    The data set itself stays as it is.

    Run the same command again to continue a file that an interrupted run left.
    """
    from medgen_data.image_folder import read_image_folder

    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.settings import CaptionSettings
    from medgen_cli.stages.captions import make_captions

    changes = overrides or []
    flags = {"method": method, "modality": modality, "max_words": max_words}
    settings = load_section("caption", CaptionSettings, config_file=config, overrides=changes, flags=flags)
    images = read_image_folder(dataset)
    with ProgressLine("caption") as progress:
        done = make_captions(
            images, out, settings, seed=recipe_seed(config, changes, seed), on_progress=progress
        )
    problems = [problem.model_dump(mode="json") for problem in done.problems]
    result = {
        "captions": str(out),
        "num_written": done.num_written,
        "num_reused": done.num_reused,
        "problems": problems,
    }
    line = f"{out}: {done.num_written} captions written, {done.num_reused} were there"
    print_result(result, as_json=as_json, lines=[line])
    if problems:
        raise PartialError(
            f"{len(problems)} images have no caption, the first: {done.problems[0]}\n"
            f"all are listed in {out.with_name('problems.jsonl')}"
        )
