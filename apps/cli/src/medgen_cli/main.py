"""The command line: commands, and the boundary where every error becomes an exit code and a clear line."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from medgen_cli.commands.caption import caption
from medgen_cli.commands.classify import classify
from medgen_cli.commands.compare import compare
from medgen_cli.commands.data import data
from medgen_cli.commands.export import export
from medgen_cli.commands.paraphrase import paraphrase
from medgen_cli.commands.report import report
from medgen_cli.commands.review import review
from medgen_cli.commands.run import demo, run
from medgen_cli.commands.sample import sample
from medgen_cli.commands.score import score
from medgen_cli.commands.train import train
from medgen_cli.errors import INTERRUPTED, GateError, PartialError, describe
from medgen_cli.output import print_failure
from medgen_cli.stop_signals import forget_signals, raise_on_signals

app = typer.Typer(
    name="medgen",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    data,
    caption,
    paraphrase,
    train,
    sample,
    score,
    classify,
    export,
    report,
    compare,
    run,
    demo,
):
    app.command()(_command)
app.add_typer(review)


def _print_versions(wanted: bool) -> None:
    if wanted:
        from medgen_cli.provenance import OUR_PACKAGES, versions

        found = versions()
        for package in OUR_PACKAGES:
            print(package, found[package])
        raise typer.Exit


@app.callback()
def medgen(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_versions, is_eager=True, help="Print versions and exit."),
    ] = False,
    debug: Annotated[  # taken out of the arguments before they are parsed
        bool, typer.Option("--debug", help="Print the traceback of an error; works after a command too.")
    ] = False,
) -> None:
    """From a small set of medical images to a text-to-image generator, and to a report that says what it is worth.

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 defect, 2 usage or recipe, 3 input
    data, 4 done but some rows failed, 5 a model is missing or cannot be used, 6 out of memory or disk, or a
    database is away, 7 a --fail-if limit was passed, 8 a loss was no number any more, 130 interrupted, 143
    terminated.
    """


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed, never raised."""
    debug, as_json = "--debug" in arguments, "--json" in arguments
    rest = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    forget_signals()
    try:
        # Typer returns the code of `typer.Exit`, and 130 for Ctrl-C.
        code = app(rest, prog_name="medgen", standalone_mode=False) or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except SystemExit as error:  # a closed pipe
        return error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        if debug:
            traceback.print_exc()
        failure = describe(error)
        # These two come after the result is on stdout already.
        after_result = isinstance(error, PartialError | GateError)
        print_failure(
            exit_code=failure.exit_code,
            kind=failure.kind,
            message=failure.message,
            as_json=as_json and not after_result,
        )
        return failure.exit_code
    return int(code)


def main() -> None:
    """Entry point of the `medgen` script."""
    # Our own progress goes to stderr; bars of other libraries would fill a log file with control characters.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # It warns of image processors that nobody here uses.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that spin for long while waiting slow a busy machine down tenfold; not spinning at all costs an idle
    # one 40%. torch is not loaded yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    raise_on_signals()
    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
