"""`medgen report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson
from medgen_cli.output import print_result


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    as_json: AsJson = False,
) -> None:
    """Write the report of a run: report.html, report.json."""
    from medgen_cli.report import build_report
    from medgen_cli.run_folder import read_run

    read_run(run_dir)
    report_file = build_report(run_dir)
    print_result({"report": str(report_file)}, as_json=as_json, lines=[f"report {report_file}"])
