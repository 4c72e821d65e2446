"""Tell sides of the body from sides of the picture.

In radiology left and right are the patient's. They count as the picture's where the sentence says so ("on the
left of the image") or where nothing in it speaks of a body.
"""

import re
from collections.abc import Iterator

from medgen_captioning.clinical_facts import vocabulary, zones
from medgen_captioning.clinical_facts.names import Names

_STRUCTURES = Names(vocabulary.STRUCTURES)
_SIDE_GROUPS = ("h1", "h2", "h3", "h4", "h5")
_SIDE = re.compile(r"(?<![\w-])(left|right|bilateral(?:ly)?|both)(?:-sided| sided|-hand)?(?![\w])")
# Left as a verb, right as an adverb.
NO_SIDE = r"\s*(?:in place|in situ|behind|untreated|untouched|out|alone|after|before|away|angle|now|where)\b"
_NO_SIDE = re.compile(NO_SIDE)
_OF_IMAGE = re.compile(rf"\s*(?:of|in|on|from) (?:the|this|an?) (?:\w+ )?(?:{zones.IMAGE})\b")
_BODY_IMAGING = Names({name: vocabulary.PROCEDURES[name] for name in vocabulary.BODY_IMAGING})
_SCOPE = Names(
    {name: vocabulary.PROCEDURES[name] for name in ("colonoscopy", "endoscopy", "gastroscopy", "dermoscopy")}
)
# Words of those who describe bodies, not pictures.
_BODY_WORDS = re.compile(
    r"(?<!\w)(?:axial|sagittal|coronal|transverse|anterior|posterior|antero\w+|postero\w+|lateral\w*|medial|proximal"
    r"|distal|patient|(?:post)?contrast|dwi|t[12]w?|ce-?ct|c\.t|\w*section|(?:oro)?pharyn\w+|mediastin\w+|hilar"
    r"|arteri\w+|nerve|muscles?|bones?|lobes?|limbs?|extremit(?:y|ies)|moiety|arch"
    r"|quadrant (?:pain|ultraso\w+))(?!\w)"
)
_INSIDE_OF_SCOPE = frozenset(["bowel", "colon", "duodenum", "oesophagus", "rectum", "stomach"])


def is_of_the_body(text: str, match: re.Match[str]) -> bool:
    """Return whether the left or right in a match of `zones.PLACE` is the patient's.

    Args:
        text: Whole text, lower case.
        match: What reads like a zone of the picture.
    """
    if not any(match[name] for name in (*_SIDE_GROUPS, "third")):
        return False
    if _OF_IMAGE.match(text, match.end()):
        return False
    if match["third"] and match["third"] not in ("left", "right"):
        return False
    # "Right upper" is how physicians say it, "upper right" how pictures are described.
    return bool(match["h2"]) or speaks_of_a_body(text)


def side_word(match: re.Match[str]) -> tuple[str, int, int]:
    """Return the left or right in a match of `zones.PLACE`, its start and its end."""
    group = next(name for name in (*_SIDE_GROUPS, "third") if match[name])
    return match[group], match.start(group), match.end(group)


def sides_of(text: str, original: str) -> Iterator[tuple[str, int, int]]:
    """Yield words that name a side, as `side:structure`, with start and end; those of the picture too.

    Args:
        text: Lower case.
        original: The same in its own case; of abbreviations only capitals count.
    """
    for match in _SIDE.finditer(text):
        side, structure = match[1], structure_near(text, match.start(), match.end())
        verb_or_adverb = _NO_SIDE.match(text, match.end())
        if (side == "both" or verb_or_adverb) and not structure:
            continue
        yield f"{'both' if side.startswith('bilateral') else side}:{structure}", match.start(), match.end()
    for letters, (side, structure) in vocabulary.SIDE_LETTERS.items():
        for match in re.finditer(rf"\b{letters}\b", original):
            yield f"{side}:{structure}", match.start(), match.end()


def structure_near(text: str, start: int, end: int) -> str:
    """Return the part of the body that a side word belongs to; empty if none is known.

    The next one after it, else the next before; failing both, the only one that the text names at all.
    """
    after = re.match(r"(?:[\s,-]+[\w'-]+){1,5}", text[end:])
    before = re.search(r"(?:[\w'-]+[\s,(]+){1,5}$", text[:start])
    own = re.split(r"\b(?:and|or|left|right|with)\b", after[0])[0] if after else ""
    found = structures_in(own) or structures_in(before[0] if before else "")
    if found:
        return found[0]
    anywhere = set(structures_in(text))
    return anywhere.pop() if len(anywhere) == 1 else ""


def structures_in(text: str) -> list[str]:
    """Return the parts of the body that a lower-case text names, in order."""
    return _STRUCTURES.all_in(text)


def speaks_of_a_body(text: str) -> bool:
    """Return whether a lower-case text is about a body seen from outside or through, as in radiology."""
    if _SCOPE.search(text) is not None:
        return not _INSIDE_OF_SCOPE.issuperset(structures_in(text))
    inside_only = _INSIDE_OF_SCOPE.issuperset(structures_in(text))
    return not inside_only or _BODY_IMAGING.search(text) is not None or bool(_BODY_WORDS.search(text))
