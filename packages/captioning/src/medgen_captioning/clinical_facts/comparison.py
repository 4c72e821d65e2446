"""Compare what two sentences state; a rewrite must state the same, no more and no less."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from medgen_captioning.clinical_facts.facts import ClinicalFacts, Count, Statement
from medgen_captioning.clinical_facts.reading import facts_of

Field = Literal[
    "anatomy", "colour", "count", "finding", "negation", "number", "place", "procedure", "qualifier", "side",
    "size", "type", "words",
]  # fmt: skip

# Of sentences in which nothing clinical is understood, this share of words must survive.
_MIN_SHARED_WORDS = 0.5


@dataclass(frozen=True)
class FactDifference:
    """One fact in which two sentences differ.

    Attributes:
        field: Kind of fact.
        original: What the first states, in words.
        rewrite: What the second states, in words.
        reason: Both in one sentence.
    """

    field: Field
    original: str
    rewrite: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether a rewrite may stand for its original, and if not, why not."""

    accepted: bool
    reasons: tuple[str, ...] = ()


def difference(original: ClinicalFacts, rewrite: ClinicalFacts) -> tuple[FactDifference, ...]:
    """Return every fact in which a rewrite differs from its original; empty if they state the same.

    A number that only an article or a plural implies ("a polyp", "polyps") must not contradict the other
    side; a number in words or figures must be kept. `endoscopy` may come or go, other procedures may not.

    >>> [d.reason for d in difference(facts_of("No polyps."), facts_of("Two polyps."))]
    ['polyp is stated as absent in the original, as present in the rewrite']
    """
    found = _compare_entities(original, rewrite)
    found += _compare_sets(
        "procedure",
        "the image",
        original.procedures - {"endoscopy"},
        rewrite.procedures - {"endoscopy"},
    )
    found += _compare_sets("side", "the body", _side_names(original), _side_names(rewrite))
    found += _compare_sets("anatomy", "the body", original.structures, rewrite.structures)
    found += _compare_sets("qualifier", "the image", original.qualifiers, rewrite.qualifiers)
    found += _compare_sets("number", "the image", original.numbers, rewrite.numbers)
    return tuple(found)


def accepts(original: str, rewrite: str) -> Verdict:
    """Judge whether a rewrite states what its original states.

    >>> accepts("Generate an image with 1 polyp.", "Create a picture of a single polyp.").accepted
    True
    >>> accepts("Generate an image with 1 polyp.", "Create a picture of two polyps.").reasons
    ('polyp: count is 1 in the original, 2 in the rewrite',)
    """
    facts = _facts_of_original(original)
    found = difference(facts, facts_of(rewrite))
    if not found and facts == ClinicalFacts():
        found = tuple(_compare_words(original, rewrite))
    return Verdict(not found, tuple(each.reason for each in found))


@lru_cache(maxsize=512)
def _facts_of_original(sentence: str) -> ClinicalFacts:
    # One original is compared with many rewrites, one after another.
    return facts_of(sentence)


def _compare_entities(original: ClinicalFacts, rewrite: ClinicalFacts) -> list[FactDifference]:
    first = {(s.entity, s.present): s for s in original.statements}
    second = {(s.entity, s.present): s for s in rewrite.statements}
    found = []
    for entity, present in sorted(first.keys() | second.keys()):
        a, b = first.get((entity, present)), second.get((entity, present))
        if a is not None and b is not None:
            found += _compare_statements(a, b)
            continue
        if b is None and (entity, not present) in second and (entity, not present) not in first:
            found.append(_negation_difference(entity, present))
        elif a is not None or not ((entity, not present) in first and (entity, not present) not in second):
            found.append(_lost_or_added(entity, present, lost=a is not None))
    return found


def _lost_or_added(entity: str, present: bool, *, lost: bool) -> FactDifference:
    name, known = entity or "an unnamed thing", "present" if present else "absent"
    here, there = (known, "nothing") if lost else ("nothing", known)
    text = "is lost in the rewrite" if lost else "is added by the rewrite"
    return FactDifference("finding", here, there, f"{name}, stated as {known}, {text}")


def _negation_difference(entity: str, present: bool) -> FactDifference:
    words = ("present", "absent") if present else ("absent", "present")
    reason = f"{entity} is stated as {words[0]} in the original, as {words[1]} in the rewrite"
    return FactDifference("negation", *words, reason)


def _compare_statements(a: Statement, b: Statement) -> list[FactDifference]:
    name = a.entity or "the image"
    found = []
    if not _counts_agree(a.count, b.count):
        here, there = _count_words(a.count), _count_words(b.count)
        reason = f"{name}: count is {here} in the original, {there} in the rewrite"
        found.append(FactDifference("count", here, there, reason))
    found += _compare_sets("size", name, a.sizes, b.sizes)
    found += _compare_sets("colour", name, a.colours, b.colours)
    found += _compare_sets("place", name, a.places, b.places)
    found += _compare_sets("type", name, a.types, b.types)
    return found


def _counts_agree(a: Count | None, b: Count | None) -> bool:
    if a is None or b is None:
        stated = a or b
        return stated is None or not stated.explicit
    return (a.low, a.high) == (b.low, b.high)


def _count_words(count: Count | None) -> str:
    return "left open" if count is None else str(count)


def _compare_sets(field: Field, name: str, a: frozenset[str], b: frozenset[str]) -> list[FactDifference]:
    if a == b:
        return []
    here, there = ", ".join(sorted(a)) or "none", ", ".join(sorted(b)) or "none"
    reason = f"{name}: {field} is {here} in the original, {there} in the rewrite"
    return [FactDifference(field, here, there, reason)]


def _side_names(facts: ClinicalFacts) -> frozenset[str]:
    return frozenset(f"{side} {structure}".strip() for side, structure in facts.sides)


def _compare_words(original: str, rewrite: str) -> list[FactDifference]:
    """Where nothing clinical is understood, ask at least for most of the words."""
    words, others = _content_words(original), _content_words(rewrite)
    shared = len(words & others)
    if words == others or shared >= max(1.0, _MIN_SHARED_WORDS * len(words)):
        return []
    reason = (
        f"no clinical fact is understood in the original, and the rewrite keeps only {shared} of its "
        f"{len(words)} words"
    )
    return [FactDifference("words", " ".join(sorted(words)), " ".join(sorted(others)), reason)]


def _content_words(text: str) -> set[str]:
    return {word[:6] for word in re.findall(r"[a-z]{4,}", text.lower())} - {"genera", "image", "images"}
