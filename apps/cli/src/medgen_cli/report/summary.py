"""The figures of the page for machines: `report.json`."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from medgen_cli.report.gather import REPORT_STAGE
from medgen_cli.report.pages import NUM_PAIRS, Curve, Page
from medgen_cli.report.sheets import RunSheet


def summarise(page: Page) -> dict[str, Any]:
    """Return what the page says as JSON values; a stage that was not run is null."""
    facts = page.facts
    return {
        "format": 1,
        "title": page.title,
        "run": _run_record(facts.run),
        "dataset": _dump(facts.dataset.card) if facts.dataset else None,
        "synthetic": _dump(facts.synthetic.card) if facts.synthetic else None,
        "untrained": _dump(facts.untrained.card) if facts.untrained else None,
        "verdicts": [asdict(verdict) for verdict in page.verdicts],
        "scores": _dump(facts.scores),
        "scores_untrained": _dump(facts.scores_untrained),
        "privacy": _dump(facts.privacy),
        "recognition": _dump(facts.recognition),
        "classification": _dump(facts.classification),
        "training": [_curve_figures(curve) for curve in page.curves],
        "neighbours": _neighbour_figures(page),
        "num_captions": len(facts.captions) if facts.captions is not None else None,
        "problems": [problem.model_dump(mode="json") for problem in facts.problems],
    }


def _dump(sheet: BaseModel | None) -> dict[str, Any] | None:
    return sheet.model_dump(mode="json", by_alias=True) if sheet is not None else None


def _run_record(run: RunSheet | None) -> dict[str, Any] | None:
    if run is None:
        return None
    record = run.model_dump(mode="json")
    record["stages"].pop(REPORT_STAGE, None)
    return record


def _curve_figures(curve: Curve) -> dict[str, Any]:
    return {
        "stage": curve.stage,
        "num_rows": curve.num_rows,
        "last_step": curve.last_step,
        "first_loss": curve.first_loss,
        "last_loss": curve.last_loss,
        "images_per_s": curve.images_per_s,
    }


def _neighbour_figures(page: Page) -> dict[str, Any] | None:
    sheet = page.neighbours
    if sheet is None:
        return None
    return {
        "num_training_images": sheet.num_training_images,
        "median": sheet.median,
        "held_out_median": sheet.held_out_median,
        "num_closer_than_held_out": sheet.num_closer_than_held_out,
        "nearest": [asdict(pair) for pair in sheet.pairs[:NUM_PAIRS]],
    }
