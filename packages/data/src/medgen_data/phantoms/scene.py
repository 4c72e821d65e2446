"""The surface being painted: a wall of mucosa seen down a tube, before any finding is put on it.

Shapes: S image size in pixels. Coordinates are x to the right and y down, both in [-1, 1].
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medgen_data.phantoms.noise import Field, smooth_noise, smooth_noise_slopes


@dataclass
class Scene:
    """A surface under construction; painters change it in place.

    Attributes:
        x: Coordinate of each pixel centre, [S, S].
        y: Coordinate of each pixel centre, [S, S].
        albedo: Linear colour of the tissue, [3, S, S] in [0, 1].
        slope_x: Slope of the surface towards the camera along x, [S, S].
        slope_y: The same along y, [S, S].
        light: Share of the light that arrives, [S, S] in [0, 1].
        gloss: Strength of wet reflections, [S, S].
    """

    x: Field
    y: Field
    albedo: Field
    slope_x: Field
    slope_y: Field
    light: Field
    gloss: Field

    @property
    def size(self) -> int:
        """Return S."""
        return len(self.x)

    @property
    def pixel(self) -> float:
        """Return the width of a pixel in units of the coordinates."""
        return 2 / self.size

    def tint(self, colour: tuple[float, float, float], coverage: Field) -> None:
        """Blend the tissue towards a colour, by a coverage [S, S] in [0, 1]."""
        target = np.array(colour, dtype=np.float32)[:, None, None]
        self.albedo += coverage * (target - self.albedo)


def soft_step(field: Field, width: float) -> Field:
    """Return a step from 0 to 1 around the zeros of a field, about `width` wide."""
    step: Field = 1 / (1 + np.exp(np.clip(field * np.float32(-4 / width), -30, 30)))
    return step


def mucosa(
    generator: np.random.Generator,
    size: int,
    *,
    lumen: tuple[float, float],
    lumen_radius: float,
    inflamed: bool,
) -> Scene:
    """Paint mucosa with vessels, folds and a lumen.

    Args:
        generator: Source of randomness.
        size: S.
        lumen: Where the lumen lies, x and y.
        lumen_radius: How wide its darkness is.
        inflamed: Redder, with flattened folds and hardly any vessels.
    """
    x, y = pixel_centres(size)
    blotches = smooth_noise(generator, 4, size)
    relief, relief_x, relief_y = smooth_noise_slopes(generator, 9, size)
    fine, fine_x, fine_y = smooth_noise_slopes(generator, 26, size)
    warmth, paleness = generator.uniform(-1, 1, 2).astype(np.float32)
    base = np.array([0.80, 0.33 + 0.02 * warmth + 0.045 * paleness, 0.25 - 0.03 * warmth + 0.045 * paleness])
    if inflamed:
        base = base * [1.0, 0.86, 0.86]
    mottle = 1 + np.float32(0.05) * blotches + np.float32(0.02) * relief + np.float32(0.015) * fine
    albedo = base.astype(np.float32)[:, None, None] * mottle
    scene = Scene(
        x=x,
        y=y,
        albedo=albedo,
        slope_x=np.float32(0.030) * relief_x + np.float32(0.003) * fine_x,
        slope_y=np.float32(0.030) * relief_y + np.float32(0.003) * fine_y,
        light=np.ones_like(x),
        gloss=np.ones_like(x),
    )
    _paint_vessels(scene, generator, strength=0.10 if inflamed else 0.42)
    _shade_folds(scene, generator, lumen, lumen_radius, depth=0.5 if inflamed else 1.0)
    return scene


@lru_cache(maxsize=8)
def pixel_centres(size: int) -> tuple[Field, Field]:
    """Return x and y of every pixel centre, each [S, S]."""
    axis = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size)) - 1
    return np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))


def _paint_vessels(scene: Scene, generator: np.random.Generator, *, strength: float) -> None:
    """Draw vessels along the zero lines of random fields, fading in and out."""
    presence = soft_step(smooth_noise(generator, 3, scene.size) + np.float32(0.3), 2.0)
    for cells, width in ((7, 0.014), (12, 0.009)):
        field, slope_x, slope_y = smooth_noise_slopes(generator, cells, scene.size)
        # Dividing by the slope makes the lines equally wide everywhere.
        distance_squared = field**2 / (slope_x**2 + slope_y**2 + np.float32(1.0))
        drawn = max(width, 0.7 * scene.pixel)
        faint = np.float32(strength * width / drawn)
        line = np.exp(distance_squared * np.float32(-1 / drawn**2)) * presence * faint
        scene.albedo[0] *= 1 - np.float32(0.22) * line
        scene.albedo[1:] *= 1 - np.float32(0.55) * line


def _shade_folds(
    scene: Scene, generator: np.random.Generator, lumen: tuple[float, float], radius: float, *, depth: float
) -> None:
    """Darken the lumen, and shade haustral folds as broken rings around it.

    Seen from inside, each ring is a sharp bright crest with the shadow of the valley behind it, on the
    side of the lumen.
    """
    dx, dy = scene.x - np.float32(lumen[0]), scene.y - np.float32(lumen[1])
    turn_2, turn_3 = generator.uniform(0, 2 * np.pi, 2).astype(np.float32)
    spacing, phase = generator.uniform([1.5, 0.0], [1.9, 1.0]).astype(np.float32)
    angle = np.arctan2(dy, dx)
    wobble = np.float32(0.16) * smooth_noise(generator, 4, scene.size)
    outline = (
        1 + np.float32(0.10) * np.cos(2 * angle + turn_2) + np.float32(0.14) * np.cos(3 * angle + turn_3)
    )
    distance = np.sqrt(dx**2 + dy**2) * outline * (1 + np.float32(0.5) * wobble)
    ring = np.log(distance / np.float32(radius) + np.float32(0.35)) * spacing + wobble + phase
    place = ring - np.floor(ring)
    crest = np.exp(place * np.float32(-2.2)) * soft_step(place - np.float32(0.06), 0.12)
    valley = np.exp((place - 1) * np.float32(5.0)) * soft_step(1 - np.float32(0.07) - place, 0.15)
    broken = soft_step(smooth_noise(generator, 3, scene.size) + np.float32(0.4), 1.5) * np.float32(depth)
    fade = soft_step(distance - np.float32(0.4 * radius), 0.3)
    scene.light *= 1 + broken * fade * (np.float32(0.22) * crest - np.float32(0.50) * valley)
    # Light falls off down the tube; beyond the last fold it is all but gone.
    tube = distance**2 / (distance**2 + np.float32((0.95 * radius) ** 2))
    scene.light *= np.float32(0.04) + np.float32(0.96) * tube
