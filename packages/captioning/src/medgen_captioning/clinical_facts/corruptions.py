"""False rewrites, made on purpose: each states something else, so a check of facts must refuse it.

Edits of the letters of a sentence, made without reading its facts: they measure the reader, not themselves.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medgen_captioning.clinical_facts.facts import ZONES

Kind = Literal[
    "colour", "count", "finding", "instrument", "landmark", "negation", "place", "procedure", "size", "type"
]

_SIZES = ("< 5mm", "5-10mm", "11-20mm", ">20mm")
_TYPES = ("ip", "is", "iia")
_COLOURS = ("pink", "red", "white", "yellow", "grey", "brown", "blue", "black", "green", "purple", "orange")
_SWAPS: tuple[tuple[Kind, str, str], ...] = (
    ("procedure", "colonoscopy", "gastroscopy"),
    ("finding", "a polyp", "an ulcer"),
    ("finding", "ulcerative colitis", "oesophagitis"),
    ("finding", "oesophagitis", "a polyp"),
    ("finding", "barretts", "oesophagitis"),
    ("finding", "polyps", "instruments"),
    ("finding", "1 polyp.", "1 instrument."),
    ("finding", "findings", "instruments"),
    ("finding", "an abnormality", "an instrument"),
    ("instrument", "polyp snare", "biopsy forceps"),
    ("instrument", "metal clip", "injection needle"),
    ("instrument", "tube", "metal clip"),
    ("instrument", "an instrument", "an abnormality"),
    ("landmark", "the z-line", "the pylorus"),
    ("landmark", "the cecum", "the ileum"),
    ("landmark", "an anatomical landmark", "an abnormality"),
)
_LIST = re.compile(r"(?<= in the )[a-z, -]+(?=\.)")
_COLOUR_LIST = re.compile(r"(?<= the colors )[a-z, ]+(?=\.)")


@dataclass(frozen=True)
class Corruption:
    """A sentence that states something else than the one it was made from; `kind` says in what."""

    kind: Kind
    text: str


def corruptions(sentence: str) -> tuple[Corruption, ...]:
    """Return false rewrites of a sentence in the manner of MedVQA-GI, each with one fact changed.

    >>> [each.text for each in corruptions("Generate an image from a colonoscopy procedure.")]
    ['Generate an image from a gastroscopy procedure.']
    """
    found = [*_negations(sentence), *_counts(sentence), *_sizes(sentence), *_types(sentence)]
    found += [*_lists(sentence), *_single_colours(sentence), *_swaps(sentence)]
    return tuple(dict.fromkeys(each for each in found if each.text != sentence))


def _negations(text: str) -> Iterator[Corruption]:
    if " not containing " in text:
        yield Corruption("negation", text.replace(" not containing ", " containing "))
    elif " containing " in text:
        yield Corruption("negation", text.replace(" containing ", " not containing "))
    if " with no " in text:
        yield Corruption("negation", text.replace(" with no ", " with 2 "))
    if re.search(r" with \d+ (finding|polyp|instrument)", text):
        yield Corruption("negation", re.sub(r" with \d+ (finding|polyp|instrument)s?", r" with no \1s", text))


def _counts(text: str) -> Iterator[Corruption]:
    match = re.search(r" with (\d+) (finding|polyp|instrument)", text)
    if match:
        for other in {int(match[1]) + 1, max(1, int(match[1]) - 1), 2 * int(match[1])} - {int(match[1])}:
            plural = "" if other == 1 else "s"
            text_after = text[match.end() :].removeprefix("s")
            yield Corruption("count", f"{text[: match.start()]} with {other} {match[2]}{plural}{text_after}")


def _sizes(text: str) -> Iterator[Corruption]:
    present = [size for size in _SIZES if size in text]
    for size in present:
        for other in _SIZES:
            if other not in present:
                yield Corruption("size", text.replace(size, other))


def _types(text: str) -> Iterator[Corruption]:
    present = [name for name in _TYPES if f"paris {name}" in text]
    for name in present:
        for other in _TYPES:
            if other not in present:
                yield Corruption("type", re.sub(rf"paris {name}\b", f"paris {other}", text))


def _lists(text: str) -> Iterator[Corruption]:
    for pattern, kind, known in ((_LIST, "place", ZONES), (_COLOUR_LIST, "colour", _COLOURS)):
        match = pattern.search(text)
        if not match:
            continue
        items = re.split(r", | and ", re.sub(r"\bink\b", "pink", match[0].replace("rigth", "right")))
        missing = [item for item in known if item not in items]
        others = [items[:-1], items[1:]] if len(items) > 1 else []
        others += (
            [[*items, missing[0]], [*items[:-1], missing[-1]], [missing[0], *items[1:]]] if missing else []
        )
        others += [[_mirrored(item) for item in items]] if kind == "place" else []
        for other in others:
            if set(other) != set(items):
                words = other[0] if len(other) == 1 else f"{', '.join(other[:-1])} and {other[-1]}"
                yield Corruption("place" if kind == "place" else "colour", pattern.sub(words, text))


def _mirrored(zone: str) -> str:
    return re.sub(r"left|right", lambda side: "right" if side[0] == "left" else "left", zone)


def _single_colours(text: str) -> Iterator[Corruption]:
    match = re.search(r"(?<= the color )\w[\w /]*(?=\.)", text)
    if match:
        for other in _COLOURS:
            if other not in match[0]:
                yield Corruption("colour", text.replace(f"color {match[0]}", f"color {other}"))
    if "green/black" in text:
        yield Corruption("colour", text.replace("green/black", "green"))


def _swaps(text: str) -> Iterator[Corruption]:
    for kind, old, new in _SWAPS:
        for a, b in ((old, new), (new, old)) if kind == "procedure" else ((old, new),):
            changed = re.sub(rf"(?<!\w){re.escape(a)}(?![a-z])", b, text)
            if changed != text:
                yield Corruption(kind, changed)
