"""`medgen compare`: several runs in one table."""

from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson
from medgen_cli.output import print_result


def compare(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, two or more.")],
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: mean and deviation over seeds.

    Runs that differ in nothing but their seed are one recipe; recipes are told apart by the fields in which they
    differ. Figures that were measured in different ways are left out.
    """
    from medgen_cli.comparison import compare_runs

    comparison = compare_runs(run_dirs)
    print_result(comparison.as_json(), as_json=as_json, lines=comparison.lines())
