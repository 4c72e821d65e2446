"""Findings painted on the mucosa: polyps, dyed cushions, ulcers."""

import math
from collections.abc import Iterator

import numpy as np

from medgen_data.phantoms.facts import PhantomFacts
from medgen_data.phantoms.noise import Field, smooth_noise, smooth_noise_slopes
from medgen_data.phantoms.scene import Scene, soft_step

# Radius of a finding in units of half the image.
RADIUS_BY_SIZE = {"<5mm": 0.15, "5-10mm": 0.20, "11-20mm": 0.26, ">20mm": 0.33}

_POLYP_COLOURS = {"pink": (0.98, 0.39, 0.36), "red": (0.80, 0.16, 0.13)}
_PALE_PINK = (0.78, 0.50, 0.58)
_DYE = (0.06, 0.20, 0.50)
_INFLAMED = (0.74, 0.15, 0.12)
_EXUDATE = (0.93, 0.86, 0.58)


def quadrant_centre(quadrant: str) -> tuple[float, float]:
    """Return the signs of x and y of a quadrant."""
    return (-1.0 if quadrant.endswith("left") else 1.0, -1.0 if quadrant.startswith("upper") else 1.0)


def paint_findings(scene: Scene, facts: PhantomFacts, generator: np.random.Generator) -> None:
    """Paint the findings that the facts name into their quadrant; normal mucosa stays as it is."""
    if facts.count == 0:
        return
    radius = RADIUS_BY_SIZE[facts.size]
    places = list(_places(facts, radius, generator))
    match facts.label:
        case "polyps":
            for place in places:
                _raise_polyp(scene, generator, place, radius, _POLYP_COLOURS[facts.colour], lobes=0.07)
        case "dyed lifted polyps":
            _raise_cushion(scene, generator, places, radius)
            for place in places:
                _raise_polyp(scene, generator, place, 0.62 * radius, _PALE_PINK, lobes=0.10)
        case "ulcerative colitis":
            _inflame(scene, generator, places, radius)
            for place in places:
                _paint_ulcer(scene, generator, place, radius)


def _places(
    facts: PhantomFacts, radius: float, generator: np.random.Generator
) -> Iterator[tuple[float, float]]:
    """Yield one centre per finding: side by side, clear of each other, inside the quadrant."""
    sign_x, sign_y = quadrant_centre(facts.quadrant)
    middle = 0.42 + generator.uniform(-0.05, 0.05, 2)
    spread = 0.0 if facts.count == 1 else 1.08 * radius / math.sin(math.pi / facts.count)
    # Two lie across the diagonal, where the quadrant has the most room.
    start = -sign_x * sign_y * math.pi / 4 + generator.uniform(-0.25, 0.25)
    for number in range(facts.count):
        turn = start + 2 * math.pi * number / facts.count
        yield (
            sign_x * middle[0] + spread * math.cos(turn),
            sign_y * middle[1] + spread * math.sin(turn),
        )


def _outline(
    scene: Scene, generator: np.random.Generator, place: tuple[float, float], radius: float, lobes: float
) -> tuple[Field, Field, Field]:
    """Return offsets from a centre in radii, and the distance in which an uneven outline is at 1."""
    dx = (scene.x - np.float32(place[0])) / np.float32(radius)
    dy = (scene.y - np.float32(place[1])) / np.float32(radius)
    angle = np.arctan2(dy, dx)
    turns = generator.uniform(0, 2 * np.pi, 2).astype(np.float32)
    uneven = np.float32(lobes) * (
        np.cos(2 * angle + turns[0]) + np.float32(0.7) * np.cos(3 * angle + turns[1])
    )
    return dx, dy, np.sqrt(dx**2 + dy**2) * (1 + uneven)


def _raise_dome(scene: Scene, dx: Field, dy: Field, distance: Field, inside: Field, *, height: float) -> None:
    """Tilt the surface as on a dome that is steepest at its rim."""
    steepness = (
        inside * np.float32(height) / np.sqrt(np.maximum(np.float32(1.12) - distance**2, np.float32(0.06)))
    )
    scene.slope_x += -dx * steepness
    scene.slope_y += -dy * steepness


def _raise_polyp(
    scene: Scene,
    generator: np.random.Generator,
    place: tuple[float, float],
    radius: float,
    colour: tuple[float, float, float],
    *,
    lobes: float,
) -> None:
    """Raise a dome with a colour of its own, a dark rim and a shadow at its foot."""
    dx, dy, distance = _outline(scene, generator, place, radius, lobes)
    inside = soft_step(1 - distance, max(0.10, 1.2 * scene.pixel / radius))
    foot = np.exp(-((distance - np.float32(1.08)) ** 2) * np.float32(1 / 0.05))
    # The lamp sits above the middle of the picture: the shadow falls outwards.
    away = soft_step(
        (dx * np.float32(place[0]) + dy * np.float32(place[1])) * np.float32(1 / math.hypot(*place)), 1.5
    )
    scene.light *= 1 - foot * (np.float32(0.22) + np.float32(0.34) * away) * (1 - inside)
    texture = 1 + np.float32(0.05) * smooth_noise(generator, 14, scene.size)
    # A polyp stands towards the lamp, so the tube darkens it less than the wall behind it.
    scene.light += inside * np.float32(0.75) * (np.float32(0.95) - scene.light)
    scene.tint(colour, inside * np.float32(0.85))
    scene.albedo *= 1 + inside * (texture - 1)
    _raise_dome(scene, dx, dy, distance, inside, height=0.85)


def _raise_cushion(
    scene: Scene, generator: np.random.Generator, places: list[tuple[float, float]], radius: float
) -> None:
    """Raise a broad cushion of dyed fluid under all polyps of the picture."""
    middle = (sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places))
    reach = max(math.hypot(x - middle[0], y - middle[1]) for x, y in places)
    broad = min(max(0.38, reach + 1.25 * radius), 0.52)
    dx, dy, distance = _outline(scene, generator, middle, broad, lobes=0.07)
    patchy = np.float32(0.10) * smooth_noise(generator, 6, scene.size)
    dyed = soft_step(1 - distance + patchy, 0.30)
    scene.light += dyed * np.float32(0.6) * (np.float32(0.9) - scene.light)
    scene.tint(_DYE, dyed * np.float32(0.9))
    scene.albedo *= 1 + dyed * np.float32(2.2) * patchy
    _raise_dome(scene, dx, dy, distance, soft_step(1 - distance, 0.3), height=0.36)


def _inflame(
    scene: Scene, generator: np.random.Generator, places: list[tuple[float, float]], radius: float
) -> None:
    """Redden a broad area around the ulcers and make it granular."""
    middle = (sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places))
    reach = max(math.hypot(x - middle[0], y - middle[1]) for x, y in places)
    _, _, distance = _outline(
        scene, generator, middle, min(max(0.50, reach + 1.45 * radius), 0.60), lobes=0.08
    )
    inflamed = soft_step(1 - distance + np.float32(0.10) * smooth_noise(generator, 7, scene.size), 0.4)
    grains, slope_x, slope_y = smooth_noise_slopes(generator, 22, scene.size)
    scene.tint(_INFLAMED, inflamed * np.float32(0.92))
    scene.albedo *= 1 + np.float32(0.18) * inflamed * grains
    scene.slope_x += np.float32(0.022) * inflamed * slope_x
    scene.slope_y += np.float32(0.022) * inflamed * slope_y
    scene.light += inflamed * np.float32(0.5) * (np.float32(0.85) - scene.light)


def _paint_ulcer(
    scene: Scene, generator: np.random.Generator, place: tuple[float, float], radius: float
) -> None:
    """Paint a shallow ulcer with yellowish-white exudate and a bleeding rim."""
    _, _, distance = _outline(scene, generator, place, 0.75 * radius, lobes=0.18)
    ragged = distance + np.float32(0.13) * smooth_noise(generator, 16, scene.size)
    covered = soft_step(1 - ragged, 0.36)
    rim = np.exp(-((ragged - np.float32(1.18)) ** 2) * np.float32(1 / 0.03))
    scene.albedo[0] *= 1 - np.float32(0.18) * rim
    scene.albedo[1:] *= 1 - np.float32(0.45) * rim
    patchy = np.float32(0.14) * smooth_noise(generator, 12, scene.size)
    scene.tint(_EXUDATE, covered * np.clip(np.float32(0.78) + patchy, 0, 1))
    scene.gloss *= 1 - np.float32(0.5) * covered
