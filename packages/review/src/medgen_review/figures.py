"""Figures of a study: mean ratings (Figure 5 of Prompt to Polyp) and scores by rank (Figure 6).

Same statistics, same bytes. Models differ by colour and by marker, in colours that most colour-blind readers tell
apart (Okabe & Ito 2008).
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medgen_review.statistics.intervals import Estimate
from medgen_review.statistics.means import OVERALL
from medgen_review.statistics.tiers import ScoreTiers
from medgen_review.stats import ReviewStatistics

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: Any = {  # matplotlib types each key
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b636e",
    "axes.axisbelow": True,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a name may hold a dollar sign
}
_MAX_SCORES = 6
_LONGEST = 28
_DPI = 150


@dataclass(frozen=True)
class DrawnFigure:
    """One figure.

    Attributes:
        name: File name without suffix.
        svg: As an SVG document.
        png: Same, 150 dots per inch.
        description: What it shows, in words, for those who do not see it.
    """

    name: str
    svg: str
    png: bytes
    description: str


def draw_figures(
    statistics: ReviewStatistics, aspect_names: Mapping[str, str] | None = None
) -> tuple[DrawnFigure, ...]:
    """Draw the mean ratings and, where there are scores, the score of each rank.

    Args:
        statistics: Of a study.
        aspect_names: Names of the aspects by key; the key where there is none.
    """
    figures = [mean_figure(statistics, aspect_names or {})]
    if statistics.score_tiers:
        figures.append(tier_figure(statistics.score_tiers))
    return tuple(figures)


def mean_figure(statistics: ReviewStatistics, aspect_names: Mapping[str, str]) -> DrawnFigure:
    """Draw the mean of each model in each aspect, and over all, with its interval."""
    rows = [*statistics.aspects, OVERALL]
    aspect_names = {OVERALL: "all aspects", **aspect_names}
    means = {(each.aspect, each.item): each.mean for each in statistics.means}
    # A row is as high as its models need to stand apart.
    height = 1.1 + len(rows) * max(0.45, 0.13 * len(statistics.models) + 0.1)
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "means"}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.add_subplot()
        for index, model in enumerate(statistics.models):
            offset = _offset(index, len(statistics.models))
            points = [
                (row + offset, means[aspect, model])
                for row, aspect in enumerate(rows)
                if means[aspect, model].value is not None
            ]
            _draw_points(axes, points, label=_label(model), index=index, horizontal=True)
        axes.set_yticks(range(len(rows)), [_label(aspect_names.get(aspect, aspect)) for aspect in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, statistics.highest)
        axes.set_xlabel(f"mean rating (0 to {statistics.highest}) and 95% interval")
        axes.grid(axis="x", color="#d9dcd8", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, handletextpad=0.4)
        best = [
            f"{aspect_names.get(aspect, aspect)}: "
            + ", ".join(f"{model} {_words(means[aspect, model])}" for model in statistics.models)
            for aspect in rows
        ]
        return _rendered(figure, "means", "Mean ratings with 95% intervals. " + "; ".join(best))


def tier_figure(tiers: Sequence[ScoreTiers]) -> DrawnFigure:
    """Draw the mean of each score over all that got one rank; the first six scores."""
    shown = tiers[:_MAX_SCORES]
    columns = min(len(shown), 3)
    lines = math.ceil(len(shown) / columns)
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "tiers"}):
        figure = Figure(figsize=(max(2.6 * columns, 3.2), 2.6 * lines), layout="constrained")
        for place, score in enumerate(shown):
            axes = figure.add_subplot(lines, columns, place + 1)
            points = [(float(tier.rank), tier.mean) for tier in score.tiers if tier.mean.value is not None]
            _draw_points(axes, points, label=None, index=0, horizontal=False)
            axes.plot(
                [rank for rank, _ in points],
                [estimate.value or 0.0 for _, estimate in points],
                color=_COLOURS[0],
                linewidth=0.8,
                alpha=0.5,
            )
            axes.set_xticks([tier.rank for tier in score.tiers])
            axes.set_xlim(
                min(tier.rank for tier in score.tiers) - 0.5, max(t.rank for t in score.tiers) + 0.5
            )
            axes.set_xlabel("rank (1 is best)")
            axes.set_title(_label(score.score), fontsize=9, loc="left")
            axes.grid(axis="y", color="#d9dcd8", linewidth=0.6)
        words = [
            f"{score.score}: " + ", ".join(f"rank {tier.rank} {_words(tier.mean)}" for tier in score.tiers)
            for score in shown
        ]
        return _rendered(figure, "tiers", "Mean score of each rank. " + "; ".join(words))


def _draw_points(
    axes: Axes, points: Sequence[tuple[float, Estimate]], *, label: str | None, index: int, horizontal: bool
) -> None:
    colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
    places, values = [place for place, _ in points], [estimate.value or 0.0 for _, estimate in points]
    flat = (values, places) if horizontal else (places, values)
    axes.plot(*flat, linestyle="none", marker=marker, color=colour, markersize=5, label=label, clip_on=False)
    for place, estimate in points:
        if estimate.interval is not None:
            line = axes.hlines if horizontal else axes.vlines
            line(place, *estimate.interval, color=colour, linewidth=1.4)


def _offset(index: int, count: int) -> float:
    return 0.0 if count == 1 else 0.6 * (index / (count - 1) - 0.5)


def _label(name: str) -> str:
    """Return a name that fits, without what SVG does not allow."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= _LONGEST else f"{clean[: _LONGEST - 1]}…"


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return "none"
    if estimate.interval is None:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} ({estimate.interval[0]:.3g} to {estimate.interval[1]:.3g})"


def _rendered(figure: Figure, name: str, description: str) -> DrawnFigure:
    svg, png = io.StringIO(), io.BytesIO()
    # Neither date nor version: the same figures are the same bytes.
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    return DrawnFigure(name, svg.getvalue(), png.getvalue(), description)
