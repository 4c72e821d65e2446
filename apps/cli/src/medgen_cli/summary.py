"""The figures of a finished run in one table: what `medgen run` and `medgen demo` print at their end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgen_cli.output import table
from medgen_cli.run_folder import read_run

_FRECHET = "frechet"
_LEARNT = {
    "real_only": "label on real test images, learnt from real",
    "synthetic_only": "label on real test images, learnt from synthetic",
    "difference": "synthetic minus real training",
}


def summarise_run(run_dir: Path) -> dict[str, Any]:
    """Collect the figures of a run; a stage that was not run leaves its figures out."""
    record = read_run(run_dir)
    summary: dict[str, Any] = {}
    trained = _score(run_dir / "scores" / "scores.json")
    untrained = _score(run_dir / "scores" / "scores_untrained.json")
    if trained:
        summary["frechet"] = trained
    if untrained:
        summary["frechet_untrained"] = untrained
    if trained and untrained and trained["value"]:
        summary["frechet_ratio"] = untrained["value"] / trained["value"]
    for attribute, sides in _read(run_dir / "classify" / "recognition.json").items():
        summary.setdefault("recognised", {})[attribute] = {
            side: _accuracy(figures) for side, figures in sides.items()
        }
    compared = _read(run_dir / "classify" / "classification.json")
    if compared:
        sides = ("real_only", "synthetic_only", "difference")
        summary["classifier_on_real_test"] = {side: _accuracy(compared[side]) for side in sides}
    summary["seconds"] = {name: stage.seconds for name, stage in record.stages.items()}
    summary["peak_memory_bytes"] = record.peak_memory_bytes
    summary["peak_gpu_memory_bytes"] = record.peak_gpu_memory_bytes
    return summary


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lay out a summary for a human."""
    rows = []
    for key, text in (
        ("frechet", "Frechet distance, synthetic"),
        ("frechet_untrained", "Frechet distance, untrained"),
    ):
        if score := summary.get(key):
            rows.append([text, f"{score['value']:.2f}", _interval(score, 2)])
    if ratio := summary.get("frechet_ratio"):
        rows.append(["untrained / synthetic", f"{ratio:.1f}x", ""])
    for attribute, sides in summary.get("recognised", {}).items():
        for side, accuracy in sides.items():
            images = "synthetic images" if side == "synthetic" else "real test images"
            rows.append(
                [f"{attribute} recognised, {images}", _percent(accuracy["value"]), _interval(accuracy)]
            )
    for side, accuracy in summary.get("classifier_on_real_test", {}).items():
        what = _LEARNT[side]
        rows.append([what, _percent(accuracy["value"]), _interval(accuracy)])
    lines = table(rows, header=["figure", "value", "95% interval"]) if rows else []
    times = [[name, f"{seconds:.1f}"] for name, seconds in summary["seconds"].items()]
    times.append(["all", f"{sum(summary['seconds'].values()):.1f}"])
    lines += ["", *table(times, header=["stage", "seconds"])]
    if summary["peak_memory_bytes"]:
        lines += ["", f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB"]
    if summary["peak_gpu_memory_bytes"]:
        lines.append(f"peak GPU memory {summary['peak_gpu_memory_bytes'] / 2**30:.2f} GiB")
    return lines


def _read(json_file: Path) -> dict[str, Any]:
    if not json_file.is_file():
        return {}
    content: dict[str, Any] = json.loads(json_file.read_text(encoding="utf-8"))
    return content


def _score(scores_file: Path) -> dict[str, Any] | None:
    for score in _read(scores_file).get("scores", []):
        if score["name"].startswith(_FRECHET):
            return {
                name: score.get(name) for name in ("name", "value", "interval", "num_real", "num_synthetic")
            }
    return None


def _accuracy(figures: Mapping[str, Any]) -> dict[str, Any]:
    accuracy = figures["accuracy"]
    return {"value": accuracy["value"], "interval": accuracy.get("interval")}


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _interval(figure: Mapping[str, Any], decimals: int | None = None) -> str:
    interval = figure.get("interval")
    if not interval:
        return ""
    low, high = interval
    return (
        f"{low:.{decimals}f} to {high:.{decimals}f}" if decimals else f"{_percent(low)} to {_percent(high)}"
    )
