"""What goes where: results on stdout as a table or JSON, progress on stderr."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgen_metrics.privacy import PrivacyAudit
    from medgen_metrics.score import ScoreSheet

_AUDIT_TABLE_ROWS = 10


def score_lines(sheet: "ScoreSheet") -> list[str]:
    """Lay out the scores as a table, with the warnings under it, each once."""
    rows = []
    for score in sheet.scores:
        low, high = score.interval
        sizes = f"{score.num_real} / {score.num_synthetic}"
        cells = (score.name, _number(score.value), f"{_number(low)} to {_number(high)}", sizes)
        rows.append((*cells, score.extractor.id))
    header = ("score", "value", "95% interval", "N real / synthetic", "extractor")
    names: dict[str, list[str]] = {}
    for score in sheet.scores:
        for warning in score.warnings:
            names.setdefault(warning, []).append(score.name)
    warnings = [
        warning if len(users) == len(sheet.scores) else f"{', '.join(users)}: {warning}"
        for warning, users in names.items()
    ]
    return [*_table(header, rows), *_warning_lines(warnings)]


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
            _number(space.threshold.distance),
            f"{space.threshold.false_positive_rate:g} (<= {space.threshold.rate_bound:.3f})",
            f"{space.authenticity:.3f}",
            f"{space.median_distance_ratio:.3f} / {space.holdout_median_distance_ratio:.3f}",
        )
        for space in audit.spaces
    ]
    header = ("space", "flagged", "threshold", "false positives", "authenticity", "ratio / held-out")
    lines += _table(header, rows)
    if audit.flagged:
        shown = audit.flagged[:_AUDIT_TABLE_ROWS]
        pairs = [
            (
                pair.synthetic_id,
                pair.train_id,
                _number(pair.suspicion),
                f"{pair.space}, {pair.view}",
            )
            for pair in shown
        ]
        lines += ["", *_table(("sample", "training image", "distance / threshold", "seen in"), pairs)]
        hidden = len(audit.flagged) - len(shown)
        lines += [f"... and {hidden} more; --out FILE lists all"] if hidden else []
    warnings = list(audit.warnings)
    if limit is not None and limit <= audit.false_positive_rate:
        warnings.append(
            f"--max-copy-rate {limit:g} is not above the false-positive rate {audit.false_positive_rate:g}: "
            "a generator that copies nothing may exceed it"
        )
    return [*lines, *_warning_lines(warnings)]


def _warning_lines(warnings: Iterable[str]) -> list[str]:
    lines = [f"! {warning}" for warning in warnings]
    return ["", *lines] if lines else []


def _number(value: float) -> str:
    # Four digits after the point, or more where they would all be zero.
    digits = 4 if value == 0 or abs(value) >= 1e-3 else min(12, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
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
