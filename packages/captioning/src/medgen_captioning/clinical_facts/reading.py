"""Read what a sentence states: which words say something about which thing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from medgen_captioning.clinical_facts import vocabulary
from medgen_captioning.clinical_facts.facts import ZONES, ClinicalFacts, Count, Statement
from medgen_captioning.clinical_facts.sides import structures_in
from medgen_captioning.clinical_facts.tokens import Token, normalise, tokens_of

_ATTRIBUTES = ("colour", "place", "size", "type")
# Words that keep an adjective from the noun after them.
_STOPS = re.compile(
    r"\b(?:a|an|the|of|in|on|at|with|that|which|is|are|was|were|from|to|by|near|for|there|here|showing|containing"
    r"|where|located|situated|can|it|this|has|have|shows?|seen|visible)\b|[,;:]\s*$"
)
_LIST_GAP = re.compile(r"[\s,/&()]*(?:and|or|nor|and/or|any|other|visible|any other|either|\s|,|/|\()*")
_SINGULAR_END = re.compile(r"(?:ss|is|us|aris)$")


@dataclass
class _Thing:
    """A mention of an entity, before mentions of the same entity are joined."""

    token: Token
    present: bool = True
    count: Count | None = None
    attributes: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in _ATTRIBUTES})


def facts_of(sentence: str) -> ClinicalFacts:
    """Return what a sentence states about an image.

    Understands the templates of MedVQA-GI with their typos, rewrites of them in free words, and, less deeply,
    captions of radiology: there sides of the body, findings, counts, sizes and numbers.

    Args:
        sentence: One or several sentences in English.

    >>> facts = facts_of("Generate an image with no polyps and 2 instruments in the upper left.")
    >>> [(s.entity, s.present, str(s.count), sorted(s.places)) for s in facts.statements]
    [('instrument', True, '2', ['upper-left']), ('polyp', False, 'None', [])]
    """
    text = normalise(sentence)
    tokens = tokens_of(text)
    things = [_Thing(token) for token in tokens if token.kind == "entity" and token.value != "normal"]
    loose = _Thing(Token("entity", "", 0, 0))
    numbers = {token.value for token in tokens if token.kind == "number"}
    _negate(text, tokens, things)
    numbers |= _count(text, tokens, things)
    _describe(text, tokens, things, loose)
    if any(loose.attributes.values()):
        things.append(loose)
    statements, procedures = _join(tokens, things), _procedures(tokens)
    return ClinicalFacts(
        statements=statements,
        procedures=procedures,
        sides=frozenset(_side(token.value) for token in tokens if token.kind == "side"),
        structures=_structures(text, {*procedures, *(statement.entity for statement in statements)}),
        qualifiers=frozenset(token.value for token in tokens if token.kind == "qualifier"),
        numbers=frozenset(numbers),
    )


def _negate(text: str, tokens: Sequence[Token], things: list[_Thing]) -> None:
    negations = [token for token in tokens if token.kind in ("negation", "without")]
    skip = False
    for index, token in enumerate(negations):
        after = negations[index + 1] if index + 1 < len(negations) else None
        if skip:
            skip = False
            continue
        if after is not None and _cancels(text, token, after):
            skip = True
            continue
        scope = [] if token.kind == "without" else _after(text, tokens, things, token)
        for thing in scope or _before(text, tokens, things, token):
            thing.present = False


def _cancels(text: str, first: Token, second: Token) -> bool:
    """Return whether two negations make an affirmation: "not free of polyps"."""
    plain = first.value.startswith(("no", "never", "cannot", "can't", "n't"))
    return plain and bool(
        vocabulary.INVERTED.match(second.value.lower()) and len(text[first.end : second.start].split()) <= 2
    )


def _after(text: str, tokens: Sequence[Token], things: list[_Thing], negation: Token) -> list[_Thing]:
    """Return what a negation is said of: the next thing, and those listed with it."""
    end = next((t.start for t in tokens if t.kind == "boundary" and t.start >= negation.end), len(text))
    found: list[_Thing] = []
    for thing in things:
        if not negation.end <= thing.token.start < end:
            continue
        start = found[-1].token.end if found else negation.end
        between = [token for token in tokens if start <= token.start < thing.token.start]
        gap = text[start : thing.token.start]
        if found:
            new = any(token.kind in ("count", "picture") for token in between) or _restarts(gap, between)
            if new:
                break
        elif _has_own_picture(gap, between):
            break
        found.append(thing)
    return found


def _restarts(gap: str, between: Sequence[Token]) -> bool:
    if re.search(
        r"\b(?:with|showing|shows|that|which|is|are|has|have|contains?|containing|includ\w+)\b", gap
    ):
        return True
    # "no polyps and a tube" names the tube anew, "no polyp or a tube" does not.
    return any(token.kind == "article" for token in between) and not re.search(r"\b(?:or|nor)\b", gap)


def _has_own_picture(gap: str, between: Sequence[Token]) -> bool:
    """Whether a new sentence begins before the thing: "polyps are not visible and the image shows text"."""
    return any(token.kind == "picture" for token in between) and bool(re.search(r"\b(?:and|with)\b", gap))


def _before(text: str, tokens: Sequence[Token], things: list[_Thing], negation: Token) -> list[_Thing]:
    """Return what a negation looks back at: "polyps and tubes are absent"."""
    start = max((t.end for t in tokens if t.kind == "boundary" and t.end <= negation.start), default=0)
    found: list[_Thing] = []
    for thing in reversed(things):
        if not (start <= thing.token.start and thing.token.end <= negation.start):
            continue
        if found and not _LIST_GAP.fullmatch(text[thing.token.end : found[-1].token.start]):
            break
        found.append(thing)
    return found


def _count(text: str, tokens: Sequence[Token], things: list[_Thing]) -> set[str]:
    """Give each count to the thing it counts; return the numbers that count nothing known."""
    numbers: set[str] = set()
    for index, token in enumerate(tokens):
        if token.kind not in ("article", "count") or token.count is None:
            continue
        following = [
            t for t in tokens[index + 1 :] if t.kind in ("boundary", "entity", "negation", "picture", "count")
        ]
        nearest = following[0] if following else None
        thing = _thing(things, nearest)
        gap = text[token.end : nearest.start] if nearest else ""
        if thing is not None and nearest is not None and _counts_this(gap):
            _set_count(text, thing, token)
        elif token.kind == "count":
            if nearest is not None and nearest.kind == "picture" and len(gap.split()) <= 4:
                continue
            previous = _last_before(tokens, things, token)
            if previous is not None and _is_tally(text[previous.token.end : token.start]):
                _set_count(text, previous, token)
            elif token.value.strip()[-1].isdigit():
                numbers.add(token.value.strip())
    for thing in things:
        if (
            thing.count is None
            and thing.token.value not in vocabulary.UNCOUNTED
            and _is_plural(text, thing.token)
        ):
            thing.count = Count(2, None, explicit=False)
    return numbers


def _counts_this(gap: str) -> bool:
    return len(gap.split()) <= 7 and not re.search(r"[;:]|,.*\b(?:with|showing|of)\b", gap)


def _is_tally(gap: str) -> bool:
    """Whether what stands between a thing and a number makes it the thing's number: "polyps: 2"."""
    return bool(
        re.fullmatch(
            r"\s*(?:[:(=,-]|n ?=|count(?:ed)?|number(?:ing|s)?|total(?:l?ing|s)?|present|visible|seen|shown|in|the"
            r"|is|are|of|a|to|as|amounts?|amounting|equals?|exactly|frame|there|\s)*",
            gap,
        )
    )


def _last_before(tokens: Sequence[Token], things: list[_Thing], token: Token) -> _Thing | None:
    start = max(
        (t.end for t in tokens if t.kind == "boundary" and t.end <= token.start and t.value != ":"), default=0
    )
    before = [thing for thing in things if start <= thing.token.start and thing.token.end <= token.start]
    return before[-1] if before else None


def _set_count(text: str, thing: _Thing, token: Token) -> None:
    if token.count is None:
        return
    if thing.token.value in vocabulary.UNCOUNTED and (token.kind == "article" or "pair" in token.value):
        return  # a pair of forceps is one
    plural = _is_plural(text, thing.token)
    if token.kind == "article" and plural:
        return
    if token.count.low == 0:
        thing.present = False
        return
    if thing.count is None or not thing.count.explicit:
        thing.count = token.count


def _is_plural(text: str, token: Token) -> bool:
    word = re.split(r"\b(?:for|of|in|made)\b", text[token.start : token.end].lower())[0].split()[-1]
    return word.endswith("s") and not _SINGULAR_END.search(word) and word != "forceps"


def _describe(text: str, tokens: Sequence[Token], things: list[_Thing], loose: _Thing) -> None:
    for index, token in enumerate(tokens):
        if token.kind not in _ATTRIBUTES:
            continue
        thing = _described(text, tokens, things, index) or loose
        values = set(token.value.lstrip("-").split(","))
        if token.kind == "place" and token.value.startswith("-"):
            # "all zones except": what follows is taken away, see `_zones`.
            values = {"all"}
        thing.attributes[token.kind] |= values


def _described(text: str, tokens: Sequence[Token], things: list[_Thing], index: int) -> _Thing | None:
    """Return the thing an attribute describes: the noun right after it, else the last one before it."""
    token = tokens[index]
    following = next(
        (t for t in tokens[index + 1 :] if t.kind not in _ATTRIBUTES and t.kind != "qualifier"), None
    )
    ahead = _thing(things, following)
    if ahead is not None and following is not None:
        gap = _uncovered(text, tokens, token.end, following.start)
        if not _STOPS.search(gap) and not re.search(r"\band\s*$", gap):
            return ahead
    start = max((t.end for t in tokens if t.kind == "boundary" and t.end <= token.start), default=0)
    before = [thing for thing in things if thing.token.end <= token.start]
    same = [thing for thing in before if thing.token.start >= start]
    if same:
        return same[-1]
    later = next((thing for thing in things if thing.token.start >= token.end), None)
    if later is not None and not any(
        t.kind == "boundary" and token.end <= t.start < later.token.start for t in tokens
    ):
        return later
    return before[-1] if before else later


def _uncovered(text: str, tokens: Sequence[Token], start: int, end: int) -> str:
    """Return the text between two positions without the attributes in it."""
    parts, position = [], start
    for token in tokens:
        if start <= token.start and token.end <= end and token.kind in (*_ATTRIBUTES, "qualifier"):
            parts.append(text[position : token.start])
            position = token.end
    return " ".join([*parts, text[position:end]]).lower()


def _thing(things: list[_Thing], token: Token | None) -> _Thing | None:
    return next((thing for thing in things if thing.token is token), None)


def _join(tokens: Sequence[Token], things: list[_Thing]) -> tuple[Statement, ...]:
    """Join mentions of one entity, and general names with particular ones."""
    joined: dict[tuple[str, bool], _Thing] = {}
    for thing in things:
        key = (thing.token.value, thing.present)
        known = joined.setdefault(key, thing)
        if known is not thing:
            _absorb(known, thing)
    for general, particular in vocabulary.GENERAL.items():
        thing_or_none = joined.get((general, True))
        targets = [joined[name, True] for name in sorted(particular) if (name, True) in joined]
        if thing_or_none is not None and len(targets) == 1 and _fits(thing_or_none.count, targets[0].count):
            _absorb(targets[0], joined.pop((general, True)))
    if _says_normal(tokens) and not any(
        present and entity in vocabulary.FINDINGS for entity, present in joined
    ):
        joined.setdefault(("finding", False), _Thing(Token("entity", "finding", 0, 0), present=False))
    return tuple(
        sorted((_statement(thing) for thing in joined.values()), key=lambda s: (s.entity, s.present))
    )


def _says_normal(tokens: Sequence[Token]) -> bool:
    return any(token.kind == "entity" and token.value == "normal" for token in tokens)


def _absorb(known: _Thing, other: _Thing) -> None:
    for kind, values in other.attributes.items():
        known.attributes[kind] |= values
    if known.count is None or (other.count is not None and other.count.explicit and not known.count.explicit):
        known.count = other.count


def _fits(general: Count | None, particular: Count | None) -> bool:
    return general is None or not general.explicit or particular is None or general.low == particular.low


def _statement(thing: _Thing) -> Statement:
    attributes = thing.attributes
    return Statement(
        entity=thing.token.value,
        present=thing.present,
        count=thing.count if thing.present else None,
        sizes=_sizes(attributes["size"]),
        colours=frozenset(attributes["colour"]),
        places=_zones(attributes["place"]),
        types=frozenset(attributes["type"]),
    )


def _sizes(sizes: set[str]) -> frozenset[str]:
    """Drop words that a size in millimetres makes redundant: a small polyp under 5 mm."""
    exact = {size for size in sizes if size.endswith("mm")}
    agreeing = {"small": ("<5mm", "5-10mm"), "medium": ("5-10mm", "11-20mm"), "large": ("11-20mm", ">20mm")}
    redundant = {word for word, classes in agreeing.items() if exact and exact <= set(classes)}
    return frozenset(sizes - redundant)


def _zones(places: set[str]) -> frozenset[str]:
    return frozenset(set(ZONES) - places if "all" in places else places)


def _procedures(tokens: Sequence[Token]) -> frozenset[str]:
    procedures = {token.value for token in tokens if token.kind == "procedure"}
    # Both are endoscopies; saying so adds nothing.
    return frozenset(
        procedures - {"endoscopy"} if procedures & {"colonoscopy", "gastroscopy"} else procedures
    )


def _structures(text: str, named: set[str]) -> frozenset[str]:
    implied: frozenset[str] = frozenset().union(
        *(vocabulary.IMPLIED_STRUCTURES.get(name, ()) for name in named)
    )
    return frozenset(structures_in(text.lower())) - implied


def _side(value: str) -> tuple[str, str]:
    side, structure = value.split(":")
    return side, structure
