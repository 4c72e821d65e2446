"""Smooth random fields that look the same at every resolution.

Shapes: S image size in pixels, K knots of a spline.

A field is a cubic B-spline surface over a grid of random numbers. The grid is drawn first and only then
sampled at S x S pixels, so one seed gives one picture, whatever the size. Everything is float32.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]  # [S, S]

# Standard deviation of a cubic B-spline surface over unit normal knots: the integral of B(t)^2 is 151/315.
_SPLINE_STD = np.float32(151 / 315)


def smooth_noise(generator: np.random.Generator, cells: int, size: int) -> Field:
    """Draw a field of zero mean and unit variance.

    Args:
        generator: Source of randomness; advances equally for every `size`.
        cells: Waves across the image are at most about half of this.
        size: S.

    Returns:
        The field, [S, S]; zero if the pixels are too coarse to show it.
    """
    knots = _knots(generator, cells)
    if 2 * cells > size:
        return np.zeros((size, size), dtype=np.float32)
    values, _ = _spline_matrices(cells, size)
    return _surface(values, knots, values)


def smooth_noise_slopes(generator: np.random.Generator, cells: int, size: int) -> tuple[Field, Field, Field]:
    """Draw a field like `smooth_noise`, with its slopes along x and y per unit of [-1, 1], each [S, S]."""
    knots = _knots(generator, cells)
    if 2 * cells > size:
        zero = np.zeros((size, size), dtype=np.float32)
        return zero, zero, zero
    values, slopes = _spline_matrices(cells, size)
    return _surface(values, knots, values), _surface(values, knots, slopes), _surface(slopes, knots, values)


def _surface(down: Field, knots: Field, across: Field) -> Field:
    surface: Field = np.linalg.multi_dot([down, knots, across.T])
    return surface


def _knots(generator: np.random.Generator, cells: int) -> Field:
    return generator.standard_normal((cells + 3, cells + 3), dtype=np.float32) / _SPLINE_STD


@lru_cache(maxsize=64)
def _spline_matrices(cells: int, size: int) -> tuple[Field, Field]:
    """Return the weights of value and slope of each knot at each pixel centre, each [S, K]."""
    position = (np.arange(size) + 0.5) * (cells / size)
    first = np.minimum(position.astype(np.int64), cells - 1)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    slopes = np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2]) / 2
    values_at, slopes_at = np.zeros((2, size, cells + 3), dtype=np.float32)
    for knot in range(4):
        values_at[np.arange(size), first + knot] = weights[knot]
        slopes_at[np.arange(size), first + knot] = slopes[knot] * (cells / 2)
    return values_at, slopes_at
