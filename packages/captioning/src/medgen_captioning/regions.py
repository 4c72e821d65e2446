"""Find the region of an image that stands out most.

Shapes: H x W working size, N pixels of tissue. Colour differences are in Lab units.

Nothing here is learned. A smooth surface is fitted to the colour of the tissue, robustly, so that findings do
not bend it; what stands out is what the surface does not explain, measured against the usual spread.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medgen_captioning.colours import Lab
from medgen_captioning.masks import (
    Map,
    Mask,
    blur,
    fill_holes,
    flood,
    grow,
    nearest,
    peak,
    shrink,
    single,
    without_threads,
)
from medgen_captioning.view import View

# `surface`: a wall around its findings, unevenly lit. `rim`: a lesion in the middle of even skin.
Background = Literal["rim", "surface"]

_MIN_TISSUE = 0.05
# Share of the field below which a region is a speck.
_SPECK = 0.01
# A smaller spread than this is called this: below it, differences are noise of the sensor. [L, a, b]
_LEAST_SPREAD = np.array([5.0, 2.2, 2.2], dtype=np.float32)
# How much less a place at the edge of the field counts than one in the middle.
_CENTRAL_PULL = {"surface": 0.9, "rim": 0.8}


@dataclass(frozen=True)
class Region:
    """A region that stands out.

    Attributes:
        mask: Its pixels, without holes, [H, W].
        distinctness: Mean colour distance to the background, in units of the usual spread of the tissue.
        background: Colour that the tissue would have there, [3].
    """

    mask: Mask
    distinctness: float
    background: Lab


def find_region(view: View, background: Background) -> Region | None:
    """Return the region that stands out most, or None if the image shows hardly any tissue.

    Some region is always the most distinct; whether it is distinct enough is for the caller to judge.
    """
    # On skin, dark is the colour of lesions; in the gut it is a place without light.
    usable = view.tissue | view.dark if background == "rim" else view.tissue & ~grow(view.dark, 2)
    if usable.mean() < _MIN_TISSUE or view.tissue.mean() < _MIN_TISSUE / 2:
        return None
    expected = _rim_colour(view) if background == "rim" else _fit_surface(view)
    distance = np.where(usable, _salience(view, expected, background), np.float32(0))
    smooth = blur(distance, 3)
    mask = _grow_from_peak(view, smooth, usable, _CENTRAL_PULL[background])
    if not (mask & usable).any():
        return None
    return Region(mask, float(distance[mask & usable].mean()), expected[mask].mean(axis=0))


def _grow_from_peak(view: View, smooth: Map, usable: Mask, pull: float) -> Mask:
    """Return the piece above threshold that holds the place with the most salience around it, [H, W]."""
    excess = np.maximum(smooth - np.quantile(smooth[usable], 0.75).astype(np.float32), 0)
    mass = blur(blur(excess, 9), 9) * _centrality(view.field, pull)
    place = peak(np.where(usable, mass, -1))
    height = float(smooth[grow(single(place, usable.shape), 3) & usable].max())
    least = 0.8 * _otsu(smooth[usable])
    mask = np.zeros_like(usable)
    # A peak much higher than its finding would leave only a speck: then look lower.
    for share in (0.45, 0.3, 0.2):
        inside = usable & (smooth >= max(share * height, least))
        if np.count_nonzero(mask) >= _SPECK * np.count_nonzero(view.field) or not inside.any():
            break
        # Reflections on a finding belong to it.
        seed = single(nearest(inside, place), inside.shape)
        joined = flood(seed, inside | (view.wet & (smooth > 0)))
        mask = without_threads(fill_holes(joined)) & view.field
    return mask


def _fit_surface(view: View) -> Lab:
    """Fit each colour channel by a quadratic surface that outliers do not bend, [H, W, 3]."""
    height, width = view.field.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=-1)
    chosen = terms[view.tissue][::3]  # six unknowns need no more
    colours = view.lab[view.tissue][::3].astype(np.float64)
    surface = np.zeros((6, 3))
    surface[0] = np.median(colours, axis=0)
    for _ in range(4):
        misfit = (((colours - chosen @ surface) / _LEAST_SPREAD) ** 2).sum(axis=1)
        weights = 1 / (1 + misfit / max(1e-6, float(np.median(misfit)))) ** 2  # Geman and McClure 1985
        weighted = chosen * weights[:, None]
        # A pinch of ridge keeps the surface flat where no tissue holds it.
        ridge = 0.02 * float(weights.sum()) * np.diag([0, 1, 1, 1, 1, 1])
        surface = np.linalg.solve(weighted.T @ chosen + ridge, weighted.T @ colours)
    fitted: Lab = (terms @ surface).astype(np.float32)
    return fitted


def _rim_colour(view: View) -> Lab:
    """Return the colour of the lighter half of the outer rim of the field, everywhere the same, [H, W, 3]."""
    depth = max(2, min(view.field.shape) // 7)
    rim = view.tissue & ~shrink(view.field, depth)
    colours = view.lab[rim if np.count_nonzero(rim) > 30 else view.tissue]
    # A lesion that reaches the rim is darker than skin.
    skin = colours[colours[:, 0] >= np.median(colours[:, 0])]
    return np.broadcast_to(np.median(skin, axis=0), view.lab.shape)


def _salience(view: View, expected: Lab, background: Background) -> Map:
    """Return how far each colour is from the expected one, in units of the usual spread, [H, W]."""
    difference = view.lab - expected
    spread = np.maximum(1.4826 * np.median(np.abs(difference[view.tissue]), axis=0), _LEAST_SPREAD)
    scaled = (difference / spread).astype(np.float32)
    if background == "surface":
        scaled = _discount_gut(scaled, expected)
    distance: Map = np.sqrt((scaled**2).sum(axis=-1))
    return distance


def _discount_gut(scaled: Lab, expected: Lab) -> Lab:
    """Make differences small that in the gut seldom mean a finding, [H, W, 3]."""
    lightness, chroma = scaled[..., :1], scaled[..., 1:]
    # A reflection is lighter and paler than tissue; exudate is lighter too, but turns the hue.
    hue = expected[..., 1:] / np.maximum(np.linalg.norm(expected[..., 1:], axis=-1, keepdims=True), 1)
    paler = np.minimum((chroma * hue).sum(axis=-1, keepdims=True), 0) * (lightness > 0)
    chroma = chroma - np.float32(0.85) * paler * hue
    # Less red than around is more often bile, stool or a fold near the lamp than a finding; bluer is dye.
    faded = (chroma[..., 0] < 0) & (chroma[..., 1] > -3)
    chroma[..., 0] *= np.where(faded, np.float32(0.3), np.float32(1))
    # Dark means far or shaded; lighter may be raised towards the lamp.
    return np.concatenate([np.maximum(lightness, 0) * np.float32(0.5), chroma], axis=-1)


def _centrality(field: Mask, pull: float) -> Map:
    """Return a weight that falls from 1 in the middle of the field to 1 - pull at its edge, [H, W]."""
    axes = []
    for axis, side in enumerate(field.shape):
        places = np.flatnonzero(field.any(axis=1 - axis))
        low, high = int(places[0]), int(places[-1])
        axes.append((2 * np.arange(side, dtype=np.float32) - low - high) / np.float32(max(1, high - low)))
    weight: Map = 1 - np.float32(pull) * np.minimum(axes[0][:, None] ** 2 + axes[1] ** 2, 1)
    return weight


def _otsu(values: Map) -> float:
    """Return the threshold that parts values into two groups with the least spread (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=64)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (means[0] - means[1]) ** 2))])
