"""Measure a region: colours, shape, place, texture, border, symmetry; and how wet the picture is.

Shapes: H x W working size. Every measurement is a number with a unit; words come later.
"""

from dataclasses import dataclass

import numpy as np

from medgen_captioning.colours import COLOUR_NAMES, Lab, colour_family, name_colour, nearest_names
from medgen_captioning.masks import Mask, blur, border, fill_holes, grow, main_piece, shrink
from medgen_captioning.regions import Region
from medgen_captioning.view import View

# A further colour is named if it covers this share of the region; at most two are.
_MIN_SHARE = 0.09


@dataclass(frozen=True)
class Ellipse:
    """The ellipse with the same area, centre and second moments as a mask.

    Attributes:
        elongation: Long axis over short axis, >= 1.
        overlap: Intersection over union of mask and ellipse, 1 for a perfect ellipse.
        symmetry: Intersection over union of the mask and its mirror image, at the worse of the two axes.
    """

    elongation: float
    overlap: float
    symmetry: float


@dataclass(frozen=True)
class RegionMeasures:
    """What is measured of a region.

    Attributes:
        colour: Name of its most frequent colour.
        further_colours: Names of up to two colours of other families that cover a good part of it.
        surrounding_colour: Name of the background's colour.
        area: Share of the visible field, 0 to 1.
        place: Centre relative to the field, x to the right and y down, both -1 to 1.
        ellipse: Its shape.
        roughness: Standard deviation of fine lightness detail inside, in Lab units.
        edge_sharpness: Share of the colour step to the background that falls within two pixels of its edge.
        cut_off: Share of its outline that lies at the edge of the field.
    """

    colour: str
    further_colours: tuple[str, ...]
    surrounding_colour: str
    area: float
    place: tuple[float, float]
    ellipse: Ellipse
    roughness: float
    edge_sharpness: float
    cut_off: float


def measure_region(view: View, region: Region) -> RegionMeasures:
    """Measure a region; pixels that mirror the lamp count for its shape but not for its colour."""
    mask = region.mask
    coloured = mask & view.field & ~view.wet
    coloured = coloured if coloured.any() else mask
    colour, *further = main_colours(view.lab[coloured])
    edge = mask & ~shrink(mask)
    beyond = grow(~view.field) | border(mask.shape)
    return RegionMeasures(
        colour=colour,
        further_colours=tuple(further),
        surrounding_colour=name_colour(region.background),
        area=_share(mask, view.field),
        place=place_in_field(mask, view.field),
        ellipse=fit_ellipse(mask),
        roughness=roughness(view, coloured),
        edge_sharpness=_edge_sharpness(view, region),
        cut_off=_share(beyond, edge),
    )


def main_colours(colours: Lab) -> tuple[str, ...]:
    """Return the name of the most frequent colour, then of up to two others, each of another family.

    Args:
        colours: Pixels of a region, [N, 3].
    """
    shares = np.bincount(nearest_names(colours), minlength=len(COLOUR_NAMES)) / len(colours)
    families: dict[str, float] = {}
    for name, share in zip(COLOUR_NAMES, shares, strict=True):
        families[colour_family(name)] = families.get(colour_family(name), 0.0) + float(share)
    # The family first: ten shades of brown must not lose to one of black.
    ranked = sorted(families, key=lambda family: -families[family])

    def shade(family: str) -> str:
        members = [i for i, name in enumerate(COLOUR_NAMES) if colour_family(name) == family]
        return COLOUR_NAMES[max(members, key=lambda i: shares[i])]

    further = [family for family in ranked[1:3] if families[family] >= _MIN_SHARE]
    return tuple(shade(family) for family in [ranked[0], *further])


def place_in_field(mask: Mask, field: Mask) -> tuple[float, float]:
    """Return the centre of a mask relative to the extent of the field: x and y, -1 to 1."""
    place = []
    for axis in (1, 0):
        extent = np.flatnonzero(field.any(axis=1 - axis))
        low, high = float(extent[0]), float(extent[-1])
        centre = float(np.nonzero(mask)[axis].mean())
        place.append((2 * centre - low - high) / max(1.0, high - low))
    return place[0], place[1]


def fit_ellipse(mask: Mask) -> Ellipse:
    """Fit an ellipse to a mask by its moments, and compare the two."""
    rows, columns = np.nonzero(mask)
    points = np.stack([rows, columns]).astype(np.float64)
    centre = points.mean(axis=1, keepdims=True)
    offsets = points - centre
    # A pixel is a square, not a point: its own second moment is 1/12.
    covariance = offsets @ offsets.T / len(rows) + np.eye(2) / 12
    variances, axes = np.linalg.eigh(covariance)
    grid = np.stack([g.ravel() for g in np.mgrid[: mask.shape[0], : mask.shape[1]]]) - centre
    # A filled ellipse has variance r^2 / 4 along a half axis r.
    inside = (((axes.T @ grid) ** 2) / (4 * variances[:, None])).sum(axis=0) <= 1
    overlap = _overlap(inside.reshape(mask.shape), mask)
    symmetry = min(_mirror_overlap(mask, offsets, centre, axis) for axis in axes.T)
    return Ellipse(float(np.sqrt(variances[1] / variances[0])), overlap, symmetry)


def roughness(view: View, mask: Mask) -> float:
    """Return the standard deviation of lightness detail finer than about five pixels, in Lab units."""
    lightness = view.lab[..., 0]
    # Three pixels from the edge, the mean over five no longer sees beyond it.
    depths = (shrink(mask, depth) for depth in (3, 2, 1))
    inner = next((inner for inner in depths if np.count_nonzero(inner) >= 24), mask)
    detail = (lightness - blur(lightness, 5))[inner]
    # Trimmed: a single vessel or glint does not make a surface rough.
    low, high = np.quantile(detail, [0.05, 0.95])
    return float(detail.clip(low, high).std())


def wet_share(view: View) -> float:
    """Return the share of the field that mirrors the lamp, halo included."""
    return _share(view.wet, view.field)


def find_lumen(view: View) -> Mask | None:
    """Return the largest dark part of the field, or None if it covers less than 1.5% of it."""
    dark = main_piece(view.dark)
    return fill_holes(dark) if np.count_nonzero(dark) >= 0.015 * np.count_nonzero(view.field) else None


def _edge_sharpness(view: View, region: Region) -> float:
    step = np.linalg.norm(view.lab - region.background, axis=-1)
    inner = shrink(region.mask) & ~shrink(region.mask, 3) & ~view.wet
    outer = grow(region.mask, 3) & ~grow(region.mask) & view.tissue
    if not inner.any() or not outer.any():
        return 0.0
    whole = float(step[region.mask].mean())
    return float(np.clip((step[inner].mean() - step[outer].mean()) / max(whole, 1.0), 0, 1))


def _mirror_overlap(mask: Mask, offsets: np.ndarray, centre: np.ndarray, axis: np.ndarray) -> float:
    """Mirror the pixels of a mask at the line through its centre across `axis` and overlap the two."""
    mirrored = np.rint(offsets - 2 * axis[:, None] * (axis @ offsets) + centre).astype(np.int64)
    inside = ((mirrored >= 0) & (mirrored < np.array(mask.shape)[:, None])).all(axis=0)
    image = np.zeros_like(mask)
    image[tuple(mirrored[:, inside])] = True
    # Rounding leaves pin holes.
    closed = shrink(grow(np.pad(image, 1)))[1:-1, 1:-1]
    return _overlap(closed | image, mask)


def _share(part: Mask, whole: Mask) -> float:
    return int(np.count_nonzero(part & whole)) / max(1, int(np.count_nonzero(whole)))


def _overlap(a: Mask, b: Mask) -> float:
    return int(np.count_nonzero(a & b)) / max(1, int(np.count_nonzero(a | b)))
