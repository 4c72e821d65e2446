"""What goes where: results on stdout as a table or JSON, progress on stderr."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgen_metrics.privacy import PrivacyAudit
    from medgen_metrics.score import Score, ScoreSheet

_AUDIT_TABLE_ROWS = 10


def score_lines(sheet: "ScoreSheet") -> list[str]:
    """Lay out the scores as a table, with the warnings under it, each once."""
    rows = []
    of_classes = [score for score in sheet.scores if "/" in score.name]
    for score in sheet.scores:
        if "/" in score.name:
            continue
        low, high = score.interval
        sizes = f"{score.num_real} / {score.num_synthetic}"
        cells = (score.name, number(score.value), f"{number(low)} to {number(high)}", sizes)
        rows.append((*cells, score.extractor.id))
    header = ("score", "value", "95% interval", "N real / synthetic", "extractor")
    lines = table(header, rows)
    lines += _class_lines(of_classes)
    names: dict[str, list[str]] = {}
    for score in sheet.scores:
        for warning in score.warnings:
            names.setdefault(warning, []).append(score.name)
    warnings = [
        warning if len(users) == len(sheet.scores) else f"{', '.join(_without_classes(users))}: {warning}"
        for warning, users in names.items()
    ]
    return [*lines, *warning_lines(warnings)]


def _class_lines(scores: Sequence["Score"]) -> list[str]:
    """Lay out the scores of classes, named SCORE/CLASS, one row for each class."""
    names = list(dict.fromkeys(score.name.partition("/")[0] for score in scores))
    classes = list(dict.fromkeys(score.name.partition("/")[2] for score in scores))
    found = {score.name: score for score in scores}
    rows = []
    for label in classes:
        first = found[f"{names[0]}/{label}"]
        cells = [number(found[f"{name}/{label}"].value) for name in names]
        rows.append((label, f"{first.num_real} / {first.num_synthetic}", *cells))
    return ["", *table(("class", "N real / synthetic", *names), rows)] if rows else []


def _without_classes(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in names))


def audit_lines(audit: "PrivacyAudit", limit: float | None) -> list[str]:
    """Lay out an audit: the copy rate, what each space found, the flagged samples, the warnings."""
    low, high = audit.interval
    lines = [
        f"copy rate  {audit.copy_rate:.4f}, 95% {low:.4f} to {high:.4f}: "
        f"{audit.num_flagged} of {audit.num_synthetic} samples flagged, "
        f"{audit.expected_by_chance:.1f} expected by chance at a false-positive rate of "
        f"{audit.false_positive_rate:g}",
        f"against {audit.num_train} training images, calibrated on {audit.num_holdout} held-out ones, "
        f"{len(audit.views)} view(s)",
        "",
    ]
    rows = [
        (
            space.extractor.id,
            str(space.num_flagged),
            number(space.threshold.distance),
            f"{space.threshold.false_positive_rate:g} (<= {space.threshold.rate_bound:.3f})",
            f"{space.authenticity:.3f}",
            f"{space.median_distance_ratio:.3f} / {space.holdout_median_distance_ratio:.3f}",
        )
        for space in audit.spaces
    ]
    header = ("space", "flagged", "threshold", "false positives", "authenticity", "ratio / held-out")
    lines += table(header, rows)
    if audit.flagged:
        shown = audit.flagged[:_AUDIT_TABLE_ROWS]
        pairs = [
            (
                pair.synthetic_id,
                pair.train_id,
                number(pair.suspicion),
                f"{pair.space}, {pair.view}",
            )
            for pair in shown
        ]
        lines += ["", *table(("sample", "training image", "distance / threshold", "seen in"), pairs)]
        hidden = len(audit.flagged) - len(shown)
        lines += [f"... and {hidden} more; --out FILE lists all"] if hidden else []
    warnings = list(audit.warnings)
    if limit is not None and limit <= audit.false_positive_rate:
        warnings.append(
            f"--max-copy-rate {limit:g} is not above the false-positive rate {audit.false_positive_rate:g}: "
            "a generator that copies nothing may exceed it"
        )
    return [*lines, *warning_lines(warnings)]


def warning_lines(warnings: Iterable[str]) -> list[str]:
    """Lay out warnings, after an empty line; nothing if there are none."""
    lines = [f"! {warning}" for warning in warnings]
    return ["", *lines] if lines else []


def number(value: float) -> str:
    """Return a number with four digits after the point, or more where they would all be zero."""
    digits = 4 if value == 0 or abs(value) >= 1e-3 else min(12, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows under a header, columns aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def print_result(result: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Write the result of a command on stdout: one JSON object, or the given lines."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) if as_json else "\n".join(lines)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_note(message: str) -> None:
    """Write one line for a human on stderr."""
    sys.stderr.write(f"medgen-metrics: {message}\n")
    sys.stderr.flush()


class Progress:
    """One line on a terminal's stderr; silent elsewhere."""

    def __init__(self, unit: str) -> None:
        self._unit, self._next_s, self._shown = unit, 0.0, False

    def __enter__(self) -> Callable[[int, int], None]:
        return self._report

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\n")

    def _report(self, done: int, total: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now >= self._next_s or done == total):
            sys.stderr.write(f"\r{done} of {total} {self._unit}")
            sys.stderr.flush()
            self._next_s, self._shown = now + 0.2, True
