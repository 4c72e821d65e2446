"""Light the scene with the lamp of the endoscope and look at it through its lens."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medgen_data.phantoms.facts import PhantomFacts
from medgen_data.phantoms.findings import paint_findings, quadrant_centre
from medgen_data.phantoms.noise import Field, smooth_noise, smooth_noise_slopes
from medgen_data.phantoms.scene import Scene, mucosa, soft_step

MIN_SIZE = 32
_CAMERA_HEIGHT = np.float32(2.2)
# Standard deviation of the point spread of lens and colour sensor, in pixels of the picture; the surface is painted
# finer than that and then seen through it, so that no edge is jagged and no vessel breaks up into dots.
_POINT_SPREAD = 1.5
_OVERSAMPLING = 2


def render_phantom(facts: PhantomFacts, *, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Render one phantom, [size, size, 3] uint8.

    The same facts and seed give the same picture at every size, but for detail too fine for the pixels.

    Args:
        facts: What to show, and where.
        size: Height and width in pixels, at least 32.
        seed: Seed of everything the facts leave open.

    Raises:
        ValueError: If `size` is below 32: findings would be smaller than a few pixels.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    generator = np.random.default_rng(seed)
    lumen, lumen_radius = _lumen(facts, generator)
    inflamed = facts.label == "ulcerative colitis"
    fine = _OVERSAMPLING * size
    scene = mucosa(generator, fine, lumen=lumen, lumen_radius=lumen_radius, inflamed=inflamed)
    paint_findings(scene, facts, generator)
    lens = _lens(size)
    light = _shine(scene, generator) * _frame(scene, generator)
    return _develop(lens @ light @ lens.T)


def _lumen(facts: PhantomFacts, generator: np.random.Generator) -> tuple[tuple[float, float], float]:
    """Return place and radius: the finding of normal mucosa, a faint backdrop across from any other."""
    sign_x, sign_y = quadrant_centre(facts.quadrant)
    if facts.count == 0:
        place = 0.44 + generator.uniform(-0.06, 0.06, 2)
        return (sign_x * place[0], sign_y * place[1]), float(generator.uniform(0.30, 0.38))
    place = generator.uniform(0.25, 0.50, 2)
    return (-sign_x * place[0], -sign_y * place[1]), float(generator.uniform(0.13, 0.19))


def _shine(scene: Scene, generator: np.random.Generator) -> Field:
    """Return the light that reaches the camera, linear, [3, S, S]."""
    lamp = generator.uniform(-0.22, 0.22, 2).astype(np.float32)
    strength = np.float32(generator.uniform(1.15, 1.35))
    to_lamp = (lamp[0] - scene.x, lamp[1] - scene.y)
    reach = 1 / np.sqrt(to_lamp[0] ** 2 + to_lamp[1] ** 2 + _CAMERA_HEIGHT**2)
    upright = 1 / np.sqrt(scene.slope_x**2 + scene.slope_y**2 + 1)
    facing = (_CAMERA_HEIGHT - scene.slope_x * to_lamp[0] - scene.slope_y * to_lamp[1]) * reach * upright
    fall_off = (_CAMERA_HEIGHT * reach) ** 5
    light = scene.light * fall_off * strength
    diffuse = light * np.maximum(np.float32(0.25) + np.float32(0.75) * facing, 0)
    # Tissue scatters red deeper than green and blue, so shade is redder than light.
    shade = np.stack([diffuse ** np.float32(power) for power in (0.86, 1.10, 1.14)])
    reaching: Field = scene.albedo * shade + _highlights(scene, generator, lamp) * light
    return reaching


def _highlights(scene: Scene, generator: np.random.Generator, lamp: npt.NDArray[np.float32]) -> Field:
    """Return the mirror images of the lamp on a wet surface, [S, S]."""
    _, ripple_x, ripple_y = smooth_noise_slopes(generator, 8, scene.size)
    wet = soft_step(smooth_noise(generator, 4, scene.size) - np.float32(0.7), 0.9)
    # Half way between lamp and camera, in units of slope: where the surface must tilt to mirror the lamp.
    half_x = (lamp[0] / 2 - scene.x) / _CAMERA_HEIGHT
    half_y = (lamp[1] / 2 - scene.y) / _CAMERA_HEIGHT
    rough = np.float32(0.045)
    miss_x = scene.slope_x + rough * ripple_x + half_x
    miss_y = scene.slope_y + rough * ripple_y + half_y
    miss = miss_x**2 + miss_y**2
    mirror = np.exp(miss * np.float32(-1 / 0.008)) + np.float32(0.10) * np.exp(miss * np.float32(-1 / 0.10))
    mirrored: Field = np.float32(0.9) * mirror * scene.gloss * (np.float32(0.06) + np.float32(0.94) * wet)
    return mirrored


@lru_cache(maxsize=8)
def _lens(size: int) -> Field:
    """Return the share of each fine row in each row of the picture, [S, F S]; the same for columns."""
    fine = (np.arange(_OVERSAMPLING * size) + 0.5) / _OVERSAMPLING
    distance = (np.arange(size)[:, None] + 0.5 - fine) / _POINT_SPREAD
    shares = np.exp(-0.5 * distance**2)
    lens: Field = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return lens


def _frame(scene: Scene, generator: np.random.Generator) -> Field:
    """Return the black surround of the picture: an octagon, a disc or cut corners, [S, S] in [0, 1]."""
    shape = generator.integers(3)
    x, y = np.abs(scene.x), np.abs(scene.y)
    if shape == 0:
        room = np.float32(1.56) - x - y
    elif shape == 1:
        room = np.float32(1.05) - np.sqrt(x**2 + y**2)
    else:
        room = np.float32(1.74) - x - y
    return soft_step(room - np.float32(scene.pixel), 1.5 * scene.pixel)


def _develop(colours: Field) -> npt.NDArray[np.uint8]:
    """Turn linear light [3, S, S] into display values [S, S, 3] with a soft shoulder at white."""
    shoulder = 1 - np.exp(colours * np.float32(-1.45))
    display = shoulder ** np.float32(0.72)
    return np.rint(np.ascontiguousarray(display.transpose(1, 2, 0)) * np.float32(255)).astype(np.uint8)
