"""`medgen run` and `medgen demo`: a whole experiment in one run folder."""

import os
from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson, Device, Overrides
from medgen_cli.errors import PARTIAL, PartialError, UsageError
from medgen_cli.output import print_result

_Out = Annotated[Path, typer.Option("--out", metavar="RUN", help="Run folder.")]
_Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Another seed than the recipe's.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done; touch no weights and no GPU.")
]
_Fork = Annotated[
    bool,
    typer.Option(
        "--fork", help="The folder may hold another recipe: redo what changed, keep the old results."
    ),
]


def run(
    out: _Out,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Recipe (.yaml); with --resume that of the run.")
    ] = None,
    overrides: Overrides = None,
    seed: _Seed = None,
    dry_run: _DryRun = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist on continuing: there must be a run already.")
    ] = False,
    fork: _Fork = False,
    allow_egress: Annotated[
        list[str] | None,
        typer.Option("--allow-egress", metavar="HOST", help="Images may be sent to this host for captions."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Do a whole experiment, from images to report.

    Stages: data, captions, training, synthesis, scores, classifiers, report.

    Run the same command again to continue a stopped run; finished stages are skipped.
    """
    if resume and not (out / "run.json").is_file():
        raise UsageError(f"{out}: nothing to resume; leave --resume out to start")
    if recipe is None and not resume:
        raise UsageError("RECIPE is missing; give a recipe, or --resume to continue the run in --out")
    _run(
        recipe or out / "recipe.yaml",
        out,
        overrides,
        seed,
        dry_run=dry_run,
        fork=fork,
        device=device,
        as_json=as_json,
        allow_egress=tuple(allow_egress or ()),
    )


def demo(
    out: _Out = Path("runs/demo"),
    overrides: Overrides = None,
    seed: _Seed = None,
    dry_run: _DryRun = False,
    fork: _Fork = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show everything in minutes, without a download.

    The packaged recipe: draw phantoms, train on them, sample, score, classify, report.
    """
    # Nothing in the demo needs the network; a library that tries must fail, not wait.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from medgen_cli.recipes import DEMO_RECIPE_FILE

    _run(DEMO_RECIPE_FILE, out, overrides, seed, dry_run=dry_run, fork=fork, device=device, as_json=as_json)


def _run(
    recipe_file: Path,
    out: Path,
    overrides: list[str] | None,
    seed: int | None,
    *,
    dry_run: bool,
    fork: bool,
    device: str,
    as_json: bool,
    allow_egress: tuple[str, ...] = (),
) -> None:
    from medgen_cli.dry_run import plan_lines, plan_recipe
    from medgen_cli.pipeline import run_recipe
    from medgen_cli.provenance import choose_device
    from medgen_cli.recipes import load_recipe
    from medgen_cli.summary import summarise_run, summary_lines

    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    recipe = load_recipe(recipe_file, overrides=changes)
    if dry_run:
        planned = plan_recipe(recipe, out)
        print_result(planned, as_json=as_json, lines=plan_lines(planned))
        return
    num_problems = run_recipe(
        recipe, out, overrides=changes, device=choose_device(device), fork=fork, allow_egress=allow_egress
    )
    summary = summarise_run(out)
    report_file = (out / "report.html").resolve()
    result = {
        "run": str(out),
        "exit_code": PARTIAL if num_problems else 0,
        "num_problems": num_problems,
        "report": str(report_file),
        **summary,
    }
    print_result(result, as_json=as_json, lines=[*summary_lines(summary), f"report {report_file}"])
    if num_problems:
        raise PartialError(f"{num_problems} rows failed; each is listed in a problems.jsonl below {out}")
