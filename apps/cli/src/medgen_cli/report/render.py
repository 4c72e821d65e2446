"""Write the report of a run: one HTML page that needs nothing else, and its figures as JSON.

The same run folder gives the same bytes: no time stamp, no absolute path of the folder, nothing random.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from medgen_data.atomic import write_json_atomic, write_text_atomic

from medgen_cli.report import numbers
from medgen_cli.report.gather import gather_run
from medgen_cli.report.neighbours import FEATURE_SIDE
from medgen_cli.report.pages import Page, compose_page
from medgen_cli.report.sheets import Evaluation
from medgen_cli.report.summary import summarise

MAX_PROBLEMS = 50
SECTIONS = (
    ("headline", "Figures in short"),
    ("samples", "Real and synthetic"),
    ("training", "Training"),
    ("scores", "Scores"),
    ("recognition", "Recognition"),
    ("classification", "Usefulness"),
    ("neighbours", "Nearest training images"),
    ("contact-sheet", "Contact sheet"),
    ("captions", "Captions"),
    ("problems", "Problems"),
    ("settings", "Settings"),
    ("limits", "Limits"),
)


def build_report(run_dir: Path) -> Path:
    """Write `report.html` and `report.json` into a run folder.

    Args:
        run_dir: Run folder; stages that were not run are shown as not run.

    Returns:
        The HTML file.

    Raises:
        DataError: If the folder is missing, or a file in it is malformed; the file and the field are named.
    """
    page = compose_page(gather_run(run_dir))
    html = render_page(page)
    report_file = run_dir / "report.html"
    # The page last: whoever sees it finds its figures beside it.
    write_json_atomic(run_dir / "report.json", summarise(page))
    write_text_atomic(report_file, html)
    return report_file


def render_page(page: Page) -> str:
    """Lay out a page as HTML; every text that came from outside is escaped."""
    templates = jinja2.PackageLoader("medgen_cli.report", "templates")
    environment = jinja2.Environment(
        loader=templates,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(_FILTERS)
    style = templates.get_source(environment, "report.css")[0]
    return environment.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),  # noqa: S704 - our own file
        sections=SECTIONS,
        recognition_rows=_recognition_rows(page),
        feature_side=FEATURE_SIDE,
        max_problems=MAX_PROBLEMS,
        version=version("medgen"),
    )


def _recognition_rows(page: Page) -> list[tuple[str, Evaluation]]:
    recognition = page.facts.recognition.root if page.facts.recognition else {}
    rows = []
    for attribute, seen in recognition.items():
        name = numbers.attribute_name(attribute).capitalize()
        rows += [(f"{name}, synthetic images", seen.synthetic), (f"{name}, real images", seen.real_test)]
    return rows


def _classifier_warnings(rows: Sequence[tuple[str, Evaluation]]) -> list[str]:
    return [f"{name}: {warning}" for name, judged in rows for warning in judged.warnings]


_FILTERS: dict[str, Any] = {
    "classifier_warnings": _classifier_warnings,
    "number": numbers.as_number,
    "percent": numbers.as_percent,
    "span": numbers.as_interval,
    "percent_span": numbers.as_percent_interval,
    "fixed": numbers.as_fixed,
    "fixed_span": numbers.as_fixed_interval,
    "score_name": numbers.score_name,
    "attribute_name": numbers.attribute_name,
}
