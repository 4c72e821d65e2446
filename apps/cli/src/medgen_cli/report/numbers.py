"""How the page prints numbers: three significant digits, percentages, intervals with an en dash."""

import math


def as_number(value: float | None) -> str:
    """Return a figure with three significant digits (whole from 100 on), or an en dash if there is none.

    >>> as_number(12.3456), as_number(0.000123), as_number(12345.6), as_number(None)
    ('12.3', '0.000123', '12,346', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def as_percent(value: float | None) -> str:
    """Return a share in [0, 1] as percentage.

    >>> as_percent(0.98765), as_percent(1.0)
    ('98.8%', '100%')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}%".replace(".0%", "%")


def as_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval, low to high.

    >>> as_interval((1.234, 5.678))
    '1.23 – 5.68'
    """
    return "–" if interval is None else f"{as_number(interval[0])} – {as_number(interval[1])}"


def as_percent_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of shares as percentages.

    >>> as_percent_interval((0.9, 0.975))
    '90% – 97.5%'
    """
    return "–" if interval is None else f"{as_percent(interval[0])} – {as_percent(interval[1])}"


def as_fixed(value: float | None) -> str:
    """Return a figure in [0, 1] with three decimals, so that a column of them lines up.

    >>> as_fixed(1.0), as_fixed(None)
    ('1.000', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def as_fixed_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval within [0, 1] with three decimals.

    >>> as_fixed_interval((0.25, 1.0))
    '0.250 – 1.000'
    """
    return "–" if interval is None else f"{as_fixed(interval[0])} – {as_fixed(interval[1])}"


def score_name(name: str) -> str:
    """Return the name of a score as the page prints it; an unknown one as it is, with spaces.

    >>> score_name("frechet"), score_name("weighted_f1")
    ('Fréchet distance', 'weighted f1')
    >>> score_name("saturation-distance/polyp")
    'Saturation distance, polyp'
    """
    name, _, label = name.partition("/")
    return _SCORE_NAMES.get(name, name.replace("_", " ")) + (f", {label}" if label else "")


def attribute_name(attribute: str) -> str:
    """Return what an attribute of an image is called on the page.

    >>> attribute_name("label"), attribute_name("facts.quadrant")
    ('class', 'quadrant')
    """
    return "class" if attribute == "label" else attribute.removeprefix("facts.").replace("_", " ")


_SCORE_NAMES = {
    "frechet": "Fréchet distance",
    "kid": "Kernel distance (KID)",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1 of precision and recall",
    "density": "Density",
    "coverage": "Coverage",
    "frechet-limit": "Fréchet distance of infinitely many images",
    "kid-subsets": "Kernel distance (KID) of subsets",
    "inception-score": "Inception Score, mean over splits",
    "inception-score-std": "Inception Score, deviation over splits",
    "inception-score-median": "Inception Score, median over splits",
    "inception-score-whole": "Inception Score of all images",
    **{f"colour-mean-{channel}": f"Error of mean {channel}" for channel in ("red", "green", "blue")},
    **{f"colour-std-{channel}": f"Error of {channel} contrast" for channel in ("red", "green", "blue")},
    "saturation-shift": "Shift of saturation",
    "saturation-distance": "Saturation distance",
    "copy-rate": "Share of copies",
}
