"""`results.html`: everything the ratings of a study say, on one page that needs nothing else."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from medgen_review.figures import DrawnFigure
from medgen_review.statistics.intervals import Estimate
from medgen_review.stats import ReviewStatistics


def render_results(
    statistics: ReviewStatistics,
    figures: Sequence[DrawnFigure],
    *,
    title: str,
    aspect_names: Mapping[str, str] | None = None,
) -> str:
    """Return the page.

    Args:
        statistics: Of the study.
        figures: As drawn from them.
        title: Of the study.
        aspect_names: Names of the aspects by key; the key where there is none.
    """
    environment = Environment(
        loader=PackageLoader("medgen_review"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "p_value": p_value,
        "estimate": estimate_cell,
        "percent": percent,
    }
    names = aspect_names or {}
    by_aspect = groupby(statistics.differences, key=lambda each: each.aspect)
    return environment.get_template("results.html").render(
        title=title,
        s=statistics,
        names={aspect: names.get(aspect, aspect) for aspect in statistics.aspects},
        means={(each.item, each.aspect): each for each in statistics.means},
        differences={aspect: list(found) for aspect, found in by_aspect},
        figures={figure.name: inline_svg(figure) for figure in figures},
    )


def inline_svg(figure: DrawnFigure) -> Markup:
    """Return a figure as an element of the page, with its description."""
    start = figure.svg.index("<svg")  # what comes before is for a file of its own
    element = figure.svg[start:]
    # Two figures on one page must not share ids.
    element = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{figure.name}-", element)
    # matplotlib escapes all text it is given; the description is ours to escape.
    return Markup(  # noqa: S704
        element.replace("<svg", f'<svg role="img" aria-label="{escape(figure.description)}"', 1)
    )


def number(value: float | None, digits: int = 2, *, significant: bool = False) -> str:
    """Return a number as text, a dash for none; a minus sign is one.

    Args:
        value: Number.
        digits: Decimals; with `significant`, two more than these in all.
        significant: Whether numbers of any size are shown.

    >>> number(-0.256), number(-0.001), number(None), number(2060.58, significant=True)
    ('−0.26', '0.00', '–', '2061')
    """
    if value is None:
        return "–"
    text = f"{value:#.{digits + 2}g}".rstrip(".") if significant else f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def percent(value: float | None) -> str:
    """Return a share in percent, a dash for none."""
    return "–" if value is None else f"{100 * value:.0f}%"


def p_value(value: float | None) -> str:
    """Return a p-value as text.

    >>> p_value(0.0321), p_value(1e-9)
    ('0.032', '< 0.001')
    """
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def estimate_cell(estimate: Estimate, *, significant: bool = False) -> Markup:
    """Return a value with its interval below, or why there is none."""
    if estimate.value is None:
        return Markup('<span class="none">{}</span>').format(estimate.note)
    value = Markup("<b>{}</b> ").format(number(estimate.value, significant=significant))
    if estimate.interval is not None:
        ends = " to ".join(number(end, significant=significant) for end in estimate.interval)
        return value + Markup("<small>{}</small>").format(ends)
    return value + Markup('<small class="why">{}</small>').format(estimate.note) if estimate.note else value
