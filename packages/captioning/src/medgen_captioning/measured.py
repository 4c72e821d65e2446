"""Captions in the manner of Med-Art's Visual Symptom Generator, from measurements instead of a model.

The Visual Symptom Generator (Guo et al. 2025, section 2.1) lets a vision-language model describe colour,
shape, surroundings and texture after the simple caption. Here each word stands for a number measured in the
pixels; what cannot be measured, such as bleeding, is not mentioned, and nothing can be invented.
"""

import numpy as np
import numpy.typing as npt

from medgen_captioning.measurement import (
    Ellipse,
    RegionMeasures,
    find_lumen,
    main_colours,
    measure_region,
    place_in_field,
    roughness,
    wet_share,
)
from medgen_captioning.prompts import article, simple_caption
from medgen_captioning.regions import find_region
from medgen_captioning.view import View, see

# Below this, what stands out most is no more than texture and light.
_MIN_DISTINCTNESS = 1.5
_MIN_AREA = 0.006
# A centre nearer to an axis of the field than this belongs to neither side.
_MIDDLE = 0.13


def measured_caption(
    image: npt.NDArray[np.uint8], modality: str, category: str | None, *, max_words: int = 100
) -> str:
    """Describe an image by what is measured in it.

    Args:
        image: [H, W, 3] uint8.
        modality: `dermoscopic` images are taken as a lesion on skin, all others as a wall with findings.
        category: Class of the image, taken over as it is; None leaves it out.
        max_words: Whole sentences are dropped from the end to keep this limit.

    Returns:
        The simple caption, continued.
    """
    view = see(image)
    skin = modality == "dermoscopic"
    region = find_region(view, "rim" if skin else "surface")
    measures = measure_region(view, region) if region is not None else None
    distinct = region is not None and region.distinctness >= _MIN_DISTINCTNESS
    if measures is None or not view.tissue.any():
        sentences = [", too dark or too bright to show any detail."]
    elif not distinct or measures.area < _MIN_AREA:
        sentences = _even_sentences(view, skin)
    elif skin:
        sentences = _skin_sentences(measures)
    else:
        sentences = _wall_sentences(view, measures)
    return _fit(simple_caption(modality, category), sentences, max_words)


def _wall_sentences(view: View, measures: RegionMeasures) -> list[str]:
    shape = f"{_size_word(measures.area)}, {_shape_word(measures.ellipse)}"
    area = (
        f", with {article(shape).lower()} {shape} area {place_phrase(measures.place)}, {_colours(measures)}."
    )
    edge = "It reaches the edge of the view. " if measures.cut_off > 0.2 else ""
    return [
        area,
        f"{edge}The surrounding mucosa is {measures.surrounding_colour}.",
        f"The surface of the area appears {_texture_word(measures.roughness)}, {_wet_phrase(view)}.",
    ]


def _skin_sentences(measures: RegionMeasures) -> list[str]:
    shape = f"{_size_word(measures.area)}, {_shape_word(measures.ellipse)}"
    place = place_phrase(measures.place)
    outline = "symmetric" if measures.ellipse.symmetry >= 0.8 else "asymmetric"
    border = "well-defined" if measures.edge_sharpness >= 0.5 else "blurred"
    edge = " and reaches the edge of the view" if measures.cut_off > 0.2 else ""
    return [
        f", with {article(shape).lower()} {shape} patch {place}, {_colours(measures)}.",
        f"Its outline is {outline}{edge}, its border {border}.",
        f"Its texture is {_texture_word(measures.roughness)}.",
        f"The surrounding skin is {measures.surrounding_colour}.",
    ]


def _even_sentences(view: View, skin: bool) -> list[str]:
    colour = main_colours(view.lab[view.tissue])[0]
    texture = _texture_word(roughness(view, view.tissue))
    if skin:
        return [f", with {colour} skin of {texture} texture and no patch of clearly different color."]
    sentences = [f", with {colour} mucosa and no area of clearly different color."]
    lumen = find_lumen(view)
    if lumen is not None:
        sentences.append(f"The dark lumen lies {place_phrase(place_in_field(lumen, view.field))}.")
    return [*sentences, f"The surface appears {texture}, {_wet_phrase(view)}."]


def place_phrase(place: tuple[float, float]) -> str:
    """Return where a centre lies, in words.

    >>> place_phrase((-0.4, 0.5))
    'in the lower-left quadrant'
    >>> place_phrase((0.0, -0.6))
    'in the upper-center'
    """
    x, y = place
    side = "" if abs(x) < _MIDDLE else "left" if x < 0 else "right"
    height = "" if abs(y) < _MIDDLE else "upper" if y < 0 else "lower"
    if side and height:
        return f"in the {height}-{side} quadrant"
    if height:
        return f"in the {height}-center"
    return f"in the center-{side}" if side else "in the center"


def _colours(measures: RegionMeasures) -> str:
    further = " and ".join(measures.further_colours)
    return f"predominantly {measures.colour}" + (f" with parts of {further}" if further else "")


def _size_word(area: float) -> str:
    return "small" if area < 0.04 else "medium-sized" if area < 0.15 else "large"


def _shape_word(ellipse: Ellipse) -> str:
    if ellipse.overlap < 0.76:
        return "irregular"
    if ellipse.elongation < 1.25:
        return "round"
    return "oval" if ellipse.elongation < 2.0 else "elongated"


def _texture_word(roughness: float) -> str:
    return "smooth" if roughness < 1.0 else "slightly uneven" if roughness < 2.8 else "granular"


def _wet_phrase(view: View) -> str:
    share = wet_share(view)
    if share < 0.01:
        return "without wet reflections in the view"
    return (
        "with a few wet reflections in the view" if share < 0.07 else "with many wet reflections in the view"
    )


def _fit(opening: str, sentences: list[str], max_words: int) -> str:
    """Join as many whole sentences to the opening as the limit allows."""
    caption = opening + sentences[0]
    if len(caption.split()) > max_words:
        return opening
    for sentence in sentences[1:]:
        longer = f"{caption} {sentence}"
        if len(longer.split()) > max_words:
            break
        caption = longer
    return caption
