"""Colours as the eye tells them apart: CIELAB, and the names that people give to tissue.

Shapes: H x W image size.
"""

import numpy as np
import numpy.typing as npt

Lab = npt.NDArray[np.float32]  # [..., 3]: lightness 0..100, green to red, blue to yellow

# sRGB prototypes by name. Names of one family are shades of each other.
_PROTOTYPES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "black": ("black", (22, 18, 20)),
    "dark brown": ("brown", (72, 42, 34)),
    "brown": ("brown", (122, 78, 58)),
    "reddish-brown": ("brown", (138, 66, 50)),
    "light brown": ("brown", (162, 118, 92)),
    "tan": ("brown", (178, 142, 96)),
    "beige": ("white", (222, 196, 168)),
    "pinkish-beige": ("white", (202, 176, 166)),
    "yellowish-white": ("white", (232, 222, 182)),
    "white": ("white", (244, 242, 240)),
    "grey": ("grey", (140, 138, 138)),
    "yellow": ("yellow", (222, 190, 96)),
    "orange": ("orange", (216, 128, 70)),
    "orange-pink": ("pink", (224, 152, 116)),
    "peach": ("pink", (212, 158, 128)),
    "salmon-pink": ("pink", (218, 136, 122)),
    "pale pink": ("pink", (232, 190, 184)),
    "greyish-pink": ("pink", (186, 164, 170)),
    "pink": ("pink", (226, 140, 146)),
    "pale lilac": ("purple", (206, 186, 206)),
    "mauve": ("purple", (172, 138, 160)),
    "purple": ("purple", (122, 74, 124)),
    "magenta": ("red", (196, 70, 112)),
    "pinkish-red": ("red", (204, 92, 86)),
    "red": ("red", (190, 48, 44)),
    "dark red": ("red", (112, 30, 30)),
    "light blue": ("blue", (140, 166, 214)),
    "blue": ("blue", (62, 100, 180)),
    "dark blue": ("blue", (38, 52, 104)),
    "bluish-grey": ("blue", (112, 122, 148)),
    "green": ("green", (84, 140, 84)),
}
COLOUR_NAMES = tuple(_PROTOTYPES)

_LINEAR = np.where(
    np.arange(256) <= 10,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
).astype(np.float32)
# sRGB to XYZ (IEC 61966-2-1), each row divided by the white point D65.
_TO_XYZ = np.array(
    [
        [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
    ],
    dtype=np.float32,
)


def to_lab(image: npt.NDArray[np.uint8]) -> Lab:
    """Convert sRGB to CIELAB under D65.

    Args:
        image: [..., 3] uint8.

    Returns:
        [..., 3] float32.
    """
    xyz = _LINEAR[image] @ _TO_XYZ.T
    root = np.where(xyz > 0.008856, np.cbrt(xyz), xyz * np.float32(7.787) + np.float32(16 / 116))
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_PROTOTYPE_LAB = to_lab(np.array([rgb for _, rgb in _PROTOTYPES.values()], dtype=np.uint8))


def colour_family(name: str) -> str:
    """Return the family of a colour name, e.g. `red` for `dark red`."""
    return _PROTOTYPES[name][0]


def nearest_names(lab: Lab) -> npt.NDArray[np.int64]:
    """Return for each colour [N, 3] the index of the nearest name in `COLOUR_NAMES`, [N]."""
    # |a - b|^2 = |a|^2 - 2 ab + |b|^2, of which |a|^2 does not change the order.
    order = (_PROTOTYPE_LAB**2).sum(axis=1) - 2 * np.matmul(lab, _PROTOTYPE_LAB.T)
    nearest: npt.NDArray[np.int64] = order.argmin(axis=1)
    return nearest


def name_colour(lab: Lab) -> str:
    """Return the name of one colour, [3]."""
    return COLOUR_NAMES[int(nearest_names(lab[None])[0])]
