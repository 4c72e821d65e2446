"""Zones of the picture in words: the nine of MedVQA-GI, their unions, halves and thirds.

`upper left`, `top-left corner` and `left upper part` are one zone; a bare `left` is a half of the picture.
"""

import re

from medgen_captioning.clinical_facts.facts import COLUMNS, ROWS, ZONES

_V = r"(?:upper|lower|top|bottom)(?:most)?"
_H = r"(?:left|right)"
_C = r"(?:cent(?:er|re)|central|middle|mid)"
_PART = (
    r"(?:sides?|halves|half|parts?|portions?|edges?|corners?|borders?|areas?|regions?|sections?|quadrants?|zones?"
    r"|sectors?|cells?|positions?|locations?|thirds?|hand side|margins?)"
)
IMAGE = r"(?:image|picture|frame|view|field|screen|scene|photo|photograph|visual|figure|field of view)"
CLOCK = re.compile(r"(?<!\d)(1[0-2]|[1-9])(?= ?o'clock)")
_WHOLE = (
    rf"(?:(?:all|every|each)(?: of)?(?: the)?(?: nine| 9)?(?: image)?"
    rf" (?:zones?|regions?|areas?|sections?|parts?|positions?)"
    rf"(?: of the {IMAGE})?"
    rf"|(?:throughout|across|over)(?: the)?(?: entire| whole)? {IMAGE}|the (?:entire|whole|complete) {IMAGE}"
    rf"|everywhere(?: in the {IMAGE})?)"
)
_EXCEPT = (
    r"(?:,? ?(?:except(?: for)?|apart from|other than|excluding|but|save for|with the exception of)(?: for)?)"
)

PLACE = re.compile(
    rf"\b(?P<whole>{_WHOLE})(?P<minus>{_EXCEPT})?(?![\w-])"
    rf"|\b(?P<third>{_V}|{_H}|{_C}) (?:third|row|column|strip|band)(?= of\b| and\b| is\b|[.,;:)]|$)"
    rf"|\b(?:(?P<v1>{_V})[ -](?P<h1>{_H}|{_C})|(?P<h2>{_H}|{_C})[ -](?P<v2>{_V})"
    rf"|(?P<c1>{_C})[ -](?P<h3>{_H})|(?P<h4>{_H})[ -](?P<c2>{_C})|(?P<mid>{_C})(?:ly)?|(?P<v3>{_V})|(?P<h5>{_H}))"
    rf"(?:-?most|-hand)?(?: {_PART})?(?![\w])"
)
# Where a bare side or height is a part of the picture and not of the body.
_OF_PICTURE = re.compile(
    rf"\s*(?:side|half|part|portion|edge|corner|border|area|region|section|quadrant|zone|third|hand side)?s?\s*"
    rf"(?:of (?:the|this|an?)(?: \w+)? {IMAGE}\b|[.,;:)]|and\b|or\b|$|is\b|are\b)"
)
_BEFORE_SIDE = re.compile(
    r"\b(?:in|on|at|to|toward|towards|from|and|or|,)(?: the| its)? ?(?:far |extreme )?$"
)
_BODY_AFTER = re.compile(
    r"\s+of (?:the|his|her|this patient's) (?!" + IMAGE + r"|endoscop|\w+ " + IMAGE + r")\w+"
)


def expand_shared_words(text: str) -> str:
    """Write out what two zones share.

    >>> expand_shared_words("the upper and lower left, the upper-left and right")
    'the upper left and lower left, the upper-left and upper-right'
    """
    text = re.sub(
        rf"\b({_V})-?( and | or |/|, )({_V})([ -])({_H}|{_C})\b", r"\1\4\5\2\3\4\5", text, flags=re.IGNORECASE
    )
    text = re.sub(
        rf"\b({_H})-?( and | or |/)({_H})([ -])({_C})\b", r"\1\4\5\2\3\4\5", text, flags=re.IGNORECASE
    )
    return re.sub(
        rf"\b({_V})([ -])({_H})( and | or |/)-?({_H})\b(?![ -](?:{_C}|{_V}))",
        r"\1\2\3\4\1\2\5",
        text,
        flags=re.IGNORECASE,
    )


def zones_of(match: re.Match[str]) -> frozenset[str]:
    """Return the zones that a match of `PLACE` names; `minus` is not subtracted yet."""
    if match["whole"]:
        return frozenset(ZONES)
    if match["third"]:
        name = _row(match["third"]) or _column(match["third"])
        if name == "center":
            return frozenset(["center"])
        return frozenset(zone for zone in ZONES if name in zone.split("-"))
    vertical = match["v1"] or match["v2"]
    horizontal = match["h1"] or match["h2"] or match["h3"] or match["h4"]
    if vertical:
        return frozenset([f"{_row(vertical)}-{_column(horizontal)}"])
    if horizontal:
        return frozenset([f"center-{_column(horizontal)}"])
    if match["mid"]:
        return frozenset(["center"])
    return frozenset([_row(match["v3"]) if match["v3"] else _column(match["h5"])])


def is_bare(match: re.Match[str]) -> bool:
    """Return whether a match is a single `left`, `right`, `upper` or `lower`."""
    return bool(match["v3"] or match["h5"])


def is_picture_side(text: str, match: re.Match[str]) -> bool:
    """Return whether a bare side or height names a part of the picture: "on the left side of the image"."""
    word_end = match.end("h5") if match["h5"] else match.end("v3")
    if _BODY_AFTER.match(text, match.end()):
        return False
    named_part = match.end() > word_end
    before = bool(_BEFORE_SIDE.search(text[: match.start()]))
    return before and bool(
        _OF_PICTURE.match(text, word_end) or (named_part and _OF_PICTURE.match(text, match.end()))
    )


def _row(word: str) -> str:
    if word.startswith(("upper", "top")):
        return ROWS[0]
    return ROWS[2] if word.startswith(("lower", "bottom")) else ""


def _column(word: str) -> str:
    return word if word in COLUMNS else COLUMNS[1]
