"""Training curves as inline SVG, drawn by hand: no script, no fonts, the same bytes for the same numbers.

The drawing takes its colours from the style classes of the page, so that it follows light, dark and print.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
MAX_POINTS = 240  # more than this no screen shows, and the page stays small


@dataclass(frozen=True)
class Axis:
    """Where a number lies on the page, and the numbers written beside the axis."""

    low: float
    high: float
    start_px: float
    end_px: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def position(self, value: float) -> float:
        """Return the page coordinate of a value, clipped to the axis."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.start_px + share * (self.end_px - self.start_px)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Return the exponential moving average of a series, unbiased at its start.

    s_t = sum_i d^(t-i) x_i / sum_i d^(t-i),  d = 1 - 2 / (span + 1)

    Args:
        values: Series, in order.
        span: Number of values the average looks back on; 1 leaves the series as it is.

    Returns:
        Smoothed series of the same length.
    """
    decay = 1 - 2 / (span + 1)
    total = weight = 0.0
    smoothed = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        smoothed.append(total / weight)
    return smoothed


def smoothing_span(num_values: int) -> int:
    """Return how many logged values one point of the smoothed curve looks back on: a twentieth of the run."""
    return max(1, num_values // 20)


def loss_curve(steps: Sequence[int], losses: Sequence[float], *, name: str) -> Markup:
    """Draw a loss over training steps: every logged value thin, the moving average thick.

    The loss axis is logarithmic when the values span more than a factor of eight.

    Args:
        steps: Training steps, increasing.
        losses: Loss of each step, finite.
        name: What was trained, for the label that a screen reader reads.

    Returns:
        An `<svg>` element that is safe to put on the page.

    Raises:
        ValueError: If there are no points or the two lengths differ.
    """
    if not steps or len(steps) != len(losses):
        raise ValueError(f"steps and losses must be of equal length >= 1, got {len(steps)} and {len(losses)}")
    span = smoothing_span(len(losses))
    smoothed = smooth(losses, span)
    across = _linear_axis(min(steps), max(steps), LEFT, WIDTH - RIGHT, integers=True)
    up = _loss_axis(losses)
    label = (
        f"Loss of the {name} over {steps[-1]} steps: from {smoothed[0]:.3g} to {smoothed[-1]:.3g} "
        f"(moving average of {span} logged values)."
    )
    parts = [
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
        _grid(across, up),
        _line(steps, losses, across, up, "raw"),
        _line(steps, smoothed, across, up, "smooth"),
        "</svg>",
    ]
    return Markup("".join(parts))  # noqa: S704 - numbers and escaped text only


def _loss_axis(losses: Sequence[float]) -> Axis:
    low, high = min(losses), max(losses)
    if low > 0 and high / low > 8:
        return _log_axis(low, high, HEIGHT - BOTTOM, TOP)
    return _linear_axis(min(low, 0.0), high, HEIGHT - BOTTOM, TOP)


def _linear_axis(low: float, high: float, start: float, end: float, *, integers: bool = False) -> Axis:
    if high <= low:
        high = low + 1
    step = _round_step((high - low) / 4)
    step = max(1.0, step) if integers else step
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(k * step for k in range(first, math.floor(high / step + 1e-9) + 1))
    return Axis(low, high, start, end, logarithmic=False, ticks=ticks)


def _log_axis(low: float, high: float, start: float, end: float) -> Axis:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 3 else (1, 3)
    ticks = tuple(factor * 10.0**power for power in exponents for factor in factors)
    return Axis(low, high, start, end, logarithmic=True, ticks=tuple(t for t in ticks if low <= t <= high))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _grid(across: Axis, up: Axis) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in up.ticks:
        y = up.position(tick)
        parts.append(f'<line class="rule" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in across.ticks:
        x = across.position(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,.0f}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 5}" text-anchor="end">step</text>')
    parts.append(f'<text x="4" y="{HEIGHT - 5}">loss{" (log scale)" if up.logarithmic else ""}</text>')
    return "".join(parts)


def _line(steps: Sequence[int], values: Sequence[float], across: Axis, up: Axis, style: str) -> str:
    # Peaks matter in a raw curve: of each run of values the lowest and the highest are kept, in order.
    kept = _extremes(values, MAX_POINTS) if style == "raw" else _evenly(len(values), MAX_POINTS)
    points = " ".join(f"{across.position(steps[i]):.1f},{up.position(values[i]):.1f}" for i in kept)
    return f'<polyline class="{style}" points="{points}"/>'


def _extremes(values: Sequence[float], num_points: int) -> list[int]:
    if len(values) <= num_points:
        return list(range(len(values)))
    edges = [round(k * len(values) / (num_points // 2)) for k in range(num_points // 2 + 1)]
    kept: set[int] = {0, len(values) - 1}
    for start, stop in itertools.pairwise(edges):
        kept.add(min(range(start, stop), key=values.__getitem__))
        kept.add(max(range(start, stop), key=values.__getitem__))
    return sorted(kept)


def _evenly(num_values: int, num_points: int) -> list[int]:
    if num_values <= num_points:
        return list(range(num_values))
    return sorted({round(k * (num_values - 1) / (num_points - 1)) for k in range(num_points)})
