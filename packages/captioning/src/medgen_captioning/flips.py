"""Captions of mirrored images: left and right, or upper and lower, change places with the picture.

Only sides of the picture do. Where a side belongs to the body ("left lung", "OD") the caption is refused: the
mirror image of a left lung is not a right one, and the image must not be flipped either.
"""

import re
from dataclasses import replace
from typing import Literal

from medgen_captioning.clinical_facts import ClinicalFacts, facts_of
from medgen_captioning.clinical_facts import zones as zone_words
from medgen_captioning.clinical_facts.sides import NO_SIDE

Axis = Literal["horizontal", "vertical"]

_PAIRS: dict[Axis, tuple[tuple[str, str], ...]] = {
    "horizontal": (("left", "right"),),
    "vertical": (("upper", "lower"), ("top", "bottom")),
}
# "Right after", "left in place" are no sides.
_SIDE = re.compile(
    r"(?<![a-z])(left|right|rigth)(?=most\b|wards?\b|(?![a-z]))"
    rf"(?!{NO_SIDE})",
    re.IGNORECASE,
)
_ABOVE = re.compile(r"(?<![a-z])(above|below)(?= (?:the|it|this)\b)", re.IGNORECASE)
_CLOCK = re.compile(zone_words.CLOCK.pattern.replace("'", "['’]"), re.IGNORECASE)
# In MedVQA-GI the landmark sentences, and only they, write the lower right zone so.
_LANDMARK_TYPO = re.compile(r"^Generate an image with an an anatomical landmark located in the ")


class FlipRefusedError(ValueError):
    """A caption cannot follow its image through a mirror; leave image and caption as they are."""


def flip_caption(text: str, axis: Axis = "horizontal") -> str:
    """Return the caption of the mirrored image.

    The flip of a flip is the caption itself. What the result states is checked against the mirrored facts.

    Args:
        text: Caption of the image.
        axis: `horizontal` exchanges left and right, `vertical` upper and lower.

    Raises:
        FlipRefusedError: If the caption names a side of the body, or places that cannot be mirrored word by
            word; the message says which.

    >>> flip_caption("Generate an image with a polyp located in the upper-left and center.")
    'Generate an image with a polyp located in the upper-right and center.'
    """
    reason = why_not_flip(text, axis)
    if reason is not None:
        raise FlipRefusedError(reason)
    return _exchange(text, axis)


def why_not_flip(text: str, axis: Axis = "horizontal") -> str | None:
    """Return why a caption cannot be flipped, None if it can.

    >>> why_not_flip("Chest radiograph with left pleural effusion.")
    'the caption names a side of the body (left lung), which a mirrored image would show wrongly'
    """
    facts = facts_of(text)
    if facts.sides:
        named = ", ".join(sorted(f"{side} {structure}".strip() for side, structure in facts.sides))
        return f"the caption names a side of the body ({named}), which a mirrored image would show wrongly"
    flipped = _exchange(text, axis)
    if _exchange(flipped, axis) != text or facts_of(flipped) != mirror_facts(facts, axis):
        return f"the places in {text!r} cannot be mirrored word by word; the nearest is {flipped!r}"
    return None


def mirror_facts(facts: ClinicalFacts, axis: Axis) -> ClinicalFacts:
    """Return what is true of the mirrored image."""
    statements = tuple(
        replace(statement, places=frozenset(_mirror_zone(zone, axis) for zone in statement.places))
        for statement in facts.statements
    )
    return replace(facts, statements=statements)


def _mirror_zone(zone: str, axis: Axis) -> str:
    if zone.endswith("o'clock"):
        return f"{_mirror_hour(int(zone.split(maxsplit=1)[0]), axis)} o'clock"
    first, second = _PAIRS[axis][0]
    return "-".join({first: second, second: first}.get(word, word) for word in zone.split("-"))


def _exchange(text: str, axis: Axis) -> str:
    text = _CLOCK.sub(lambda hour: str(_mirror_hour(int(hour[1]), axis)), text)
    if axis == "vertical":
        text = _ABOVE.sub(
            lambda word: _cased({"above": "below", "below": "above"}[word[1].lower()], word[1]), text
        )
        return _exchange_heights(text)
    right = "rigth" if _LANDMARK_TYPO.match(text) else "right"

    def side(found: re.Match[str]) -> str:
        if found[1].lower() != "left":
            return _cased("left", found[1])
        lower = re.search(r"lower-$", text[: found.start()])
        return _cased(right if lower else "right", found[1])

    return _SIDE.sub(side, text)


def _exchange_heights(text: str) -> str:
    # Same length, so that positions found in one hold in the other.
    lower = text.lower().replace("rigth", "right")
    swaps = {a: b for pair in _PAIRS["vertical"] for a, b in (pair, pair[::-1])}
    parts, position = [], 0
    for match in zone_words.PLACE.finditer(lower):
        if match["whole"] or (zone_words.is_bare(match) and not zone_words.is_picture_side(lower, match)):
            continue
        words = text[match.start() : match.end()]
        swapped = re.sub(
            r"upper|lower|top|bottom",
            lambda word: _cased(swaps[word[0].lower()], word[0]),
            words,
            flags=re.IGNORECASE,
        )
        parts += [text[position : match.start()], swapped]
        position = match.end()
    return "".join([*parts, text[position:]])


def _mirror_hour(hour: int, axis: Axis) -> int:
    mirrored = (12 - hour) if axis == "horizontal" else (18 - hour)
    return (mirrored - 1) % 12 + 1


def _cased(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word
