"""Separate tissue from what only looks like it: black surround, overlays, reflections, darkness.

Shapes: H x W working size.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen_captioning.colours import Lab, to_lab
from medgen_captioning.masks import Mask, blur, border, fill_holes, flood, grow, main_piece, shrink

# Findings are much larger than a pixel of 1/64: finer detail would only cost time.
_WORKING_SIDE = 64


@dataclass(frozen=True)
class View:
    """An image at working size, and which of its pixels show tissue.

    Attributes:
        lab: Colours, [H, W, 3].
        field: The visible field without black surround and overlays, [H, W].
        wet: Mirror images of the lamp, with their halo, [H, W].
        dark: Parts of the field too dark to show a colour, e.g. the lumen, [H, W].
    """

    lab: Lab
    field: Mask
    wet: Mask
    dark: Mask

    @property
    def tissue(self) -> Mask:
        """Return the pixels whose colour is that of tissue."""
        return self.field & ~self.wet & ~self.dark


def see(image: npt.NDArray[np.uint8]) -> View:
    """Shrink an image to working size and separate its pixels.

    Args:
        image: [H, W, 3] uint8.
    """
    lab = to_lab(_average_blocks(image))
    lightness = lab[..., 0]
    field = _visible_field(lab)
    median = float(np.median(lightness[field])) if field.any() else 0.0
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    # A reflection is light and pale, and lighter than what is around it: exudate and bare skin are not.
    mirror = (lightness > max(80.0, median + 12)) & (chroma < 26) & (lightness > blur(lightness, 5) + 3)
    # Where the sensor is blown out there is no colour to judge, however wide the place.
    mirror |= lightness > 93
    return View(lab=lab, field=field, wet=grow(mirror) & field, dark=field & (lightness < 0.5 * median))


def _average_blocks(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average whole blocks of pixels until the short side is near the working size."""
    factor = max(1, min(image.shape[:2]) // _WORKING_SIDE)
    if factor == 1:
        return image
    height, width = (side // factor for side in image.shape[:2])
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    averages: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return np.rint(averages).astype(np.uint8)


def _visible_field(lab: Lab) -> Mask:
    """Return the image without the black that is joined to its edge, and without green overlays."""
    black = (lab[..., 0] < 14) & (np.hypot(lab[..., 1], lab[..., 2]) < 14)
    hidden = flood(border(black.shape), black) | (lab[..., 1] < -30)
    if not hidden.any():
        return ~hidden
    # The edge of the surround is half black; lettering in it is an island apart from the main piece.
    return main_piece(shrink(fill_holes(~hidden)) & ~hidden)
