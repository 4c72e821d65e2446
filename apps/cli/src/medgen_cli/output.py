"""What goes where: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence


def print_result(result: Mapping[str, object], *, as_json: bool, lines: Sequence[str] = ()) -> None:
    """Print the result of a command on stdout: one JSON object with --json, else the given lines."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        for line in lines:
            print(line)


def print_note(message: str) -> None:
    """Print a note for a human on stderr."""
    print(message, file=sys.stderr, flush=True)


def print_failure(*, exit_code: int, kind: str, message: str, as_json: bool) -> None:
    """Print an error on stderr; with --json also as one object on stdout, so that a pipe can parse it."""
    print(f"medgen: error: {message}", file=sys.stderr, flush=True)
    if as_json:
        print(
            json.dumps(
                {"error": {"exit_code": exit_code, "kind": kind, "message": message}}, ensure_ascii=False
            )
        )


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> list[str]:
    """Lay out cells in columns: the first left-aligned, the others right-aligned.

    >>> table([["class", "0.98"]], header=["what", "value"])
    ['what   value', 'class   0.98']
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return lines
