"""Cut a sentence into the words that mean something: things, negations, counts, places, colours ..."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from medgen_captioning.clinical_facts import sides, sizes, vocabulary, zones
from medgen_captioning.clinical_facts.facts import Count
from medgen_captioning.clinical_facts.names import Names

Kind = Literal[
    "article", "boundary", "colour", "count", "entity", "negation", "number", "picture", "place", "procedure",
    "qualifier", "side", "size", "type", "without",
]  # fmt: skip


@dataclass(frozen=True)
class Token:
    """A word or phrase with a meaning.

    Attributes:
        kind: What kind of meaning; `without` is a negation that follows its word ("polyp-free").
        value: The meaning: canonical name, zones joined by commas, size class, ...
        start: First character in the normalised text.
        end: Character after the last.
        count: Of `count` and `article`, how many.
    """

    kind: Kind
    value: str
    start: int
    end: int
    count: Count | None = None


def normalise(sentence: str) -> str:
    """Return a sentence with one spelling of dashes and quotes, and the typos of MedVQA-GI mended.

    >>> normalise("Generate an image with an an instrument located in the lower-rigth.")
    'Generate an image with an instrument located in the lower-right.'
    >>> normalise("Generate an image containing metal clipandtube.")
    'Generate an image containing metal clip and tube.'
    """
    text = unicodedata.normalize("NFKC", sentence)
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", text)
    text = re.sub(r"[\u2018\u2019`\u00b4]", "'", text).replace("\u201c", '"').replace("\u201d", '"')
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b(an?) \1\b", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"\brigth\b", "right", text)
    text = re.sub(r"\b(snare|forceps|clip|polyp|tube|needle)and(?=[a-z])", r"\1 and ", text)
    text = re.sub(r"\band(tube|metal clip|oesophagitis|ulcerative)\b", r"and \1", text)
    text = re.sub(r"\bbarretts\b", "barrett's oesophagus", text, flags=re.IGNORECASE)
    text = re.sub(r"(\bcolou?rs? )ink\b", r"\1pink", text)
    text = re.sub(r"([<>]) +(?=\d)", r"\1", text)
    text = re.sub(r"(?<=\d) (?=mm\b)", "", text)
    return zones.expand_shared_words(text)


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a normalised text in order, none overlapping."""
    scan = _Scan(text)
    for read in _READERS:
        read(scan)
    return sorted(scan.tokens, key=lambda token: token.start)


class _Scan:
    """A text from which each reader takes what it understands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lower = text.lower()
        self._taken = bytearray(len(text))
        self.tokens: list[Token] = []

    def take(self, token: Token) -> bool:
        if any(self._taken[token.start : token.end]):
            return False
        self._taken[token.start : token.end] = b"\x01" * (token.end - token.start)
        self.tokens.append(token)
        return True

    def take_all(self, kind: Kind, names: Names) -> None:
        position = 0
        while (found := names.search(self.lower, position)) is not None:
            name, start, end = found
            # What overlaps something taken may hide a shorter name inside.
            position = end if self.take(Token(kind, name, start, end)) else start + 1


_MORPHOLOGY = Names({"ip": r"pedunculated(?= (?:polyp|lesion|\(|paris))", "is": r"sessile(?! serrated)"})
_SIZE_WORDS = Names(vocabulary.SIZE_WORDS)
_ENDOSCOPY = Names({"endoscopy": vocabulary.PROCEDURES["endoscopy"]})
_PROCEDURES = Names({name: words for name, words in vocabulary.PROCEDURES.items() if name != "endoscopy"})
_ENTITIES = Names({**vocabulary.ENTITIES, "normal": r"normal|healthy|unremarkable"})
_COLOURS = Names(vocabulary.COLOURS)
_QUALIFIERS = Names(vocabulary.QUALIFIERS)
_PICTURE = Names({"image": vocabulary.PICTURE})

_PARIS_TYPE = re.compile(
    r"(?<!\w)(?:(?:type|0)-)?(?:0-)?"
    r"(ip|isp|iia|iib|iic|iii|is(?= type (?:polyp|lesion))"
    r"|is(?!,? (?:of |a |an |the |\w+ed\b|type|paris|0-|i[ps]\b|ii)))(?!\w)"
)


def _read_types(scan: _Scan) -> None:
    for match in re.finditer(r"\bparis\b|\b(?:types?|class) (?=(?:0-)?i[ps]|(?:0-)?ii)", scan.lower):
        position, last = match.end(), 0
        while (found := _PARIS_TYPE.search(scan.lower, position)) and found.start() - position <= 45:
            gap = scan.lower[position : found.start()]
            # "is" is a type after a type word or another type, a verb anywhere else.
            if found[1] == "is" and not re.search(
                r"(?:paris|types?|class|classification|classified as|category|morphology|,|and|or|/|\(|:|\bis) ?$",
                scan.lower[: found.start()],
            ):
                position = found.end()
                continue
            if last and not re.fullmatch(r"[\s,/]*(?:and|or|as well as|paris|types?|class|is|\s|,|/)*", gap):
                break
            scan.take(Token("type", found[1], found.start(), found.end()))
            position = last = found.end()
    # Morphology in words: the Paris classification's own glosses.
    scan.take_all("type", _MORPHOLOGY)


def _read_sizes(scan: _Scan) -> None:
    for match in sizes.SIZE.finditer(scan.lower):
        if sizes.is_size(scan.lower, match):
            scan.take(Token("size", sizes.size_class(scan.lower, match), match.start(), match.end()))
    scan.take_all("size", _SIZE_WORDS)


def _read_names(scan: _Scan) -> None:
    scan.take_all("procedure", _PROCEDURES)
    scan.take_all("entity", _ENTITIES)
    # The bare word last: "endoscopic forceps" is a forceps.
    scan.take_all("procedure", _ENDOSCOPY)


def _read_places(scan: _Scan) -> None:
    for match in zones.CLOCK.finditer(scan.lower):
        # On a breast or an eye the clock is the body's.
        body = sides.speaks_of_a_body(scan.lower)
        value = f"{match[1]} o'clock" + (
            f":{sides.structure_near(scan.lower, *match.span())}" if body else ""
        )
        scan.take(Token("side" if body else "place", value, match.start(), match.end()))
    for match in zones.PLACE.finditer(scan.lower):
        bare = zones.is_bare(match)
        if bare and not zones.is_picture_side(scan.lower, match):
            continue
        if re.match(r"-?ed\b|-aged", scan.lower[match.end() :]):
            continue
        if sides.is_of_the_body(scan.lower, match):
            side, start, end = sides.side_word(match)
            scan.take(Token("side", f"{side}:{sides.structure_near(scan.lower, start, end)}", start, end))
            continue
        value = ",".join(sorted(zones.zones_of(match)))
        scan.take(Token("place", f"-{value}" if match["minus"] else value, match.start(), match.end()))


def _read_sides(scan: _Scan) -> None:
    for value, start, end in sides.sides_of(scan.lower, scan.text):
        scan.take(Token("side", value, start, end))


def _read_negations(scan: _Scan) -> None:
    for match in re.finditer(r"(?:-| )free(?! of| from|\w)|(?<=\w)-?less\b(?! than)", scan.lower):
        if any(token.kind == "entity" and token.end == match.start() for token in scan.tokens):
            scan.take(Token("without", "free", match.start(), match.end()))
    for match in re.finditer(rf"(?<![\w])(?:{vocabulary.NEGATION})(?![\w])", scan.lower):
        if not re.match(r" (?:only|just|merely|doubt|more|others?\b(?! [a-z]))\b", scan.lower[match.end() :]):
            scan.take(Token("negation", match[0], match.start(), match.end()))
    for match in re.finditer(r"n't\b", scan.lower):
        scan.take(Token("negation", "not", match.start(), match.end()))


def _read_colours(scan: _Scan) -> None:
    scan.take_all("colour", _COLOURS)


_COUNT_WORDS: dict[str, tuple[int, int | None]] = {
    r"(?:single|solitary|sole|lone|an individual|one individual|only one|just one)": (1, 1),
    r"(?:a )?pair(?: of)?|(?:a )?couple(?: of)?|twin|both(?! (?:an?|the)\b| .* and )": (2, 2),
    r"(?:a )?trio(?: of)?|triple": (3, 3),
    r"multiple|several|many|numerous|various|a number of|a few|plural|more than one": (2, None),
    r"one or more|any number of|at least one": (1, None),
    r"half a dozen": (6, 6),
    r"a dozen|twelve": (12, 12),
}
_NUMERAL = r"\d+(?:\.\d+)?|" + "|".join(vocabulary.NUMBER_WORDS)
_COUNT = re.compile(
    rf"(?<![\w./-])(?P<bound>at least |more than |no fewer than |over |at most |up to |fewer than |less than )?"
    rf"(?P<number>{_NUMERAL})(?:(?:-| to | or )(?P<high>{_NUMERAL}))?"
    r"(?![\w%]|\.\d|-year|/\d)(?! (?:that|which|where|with|in which|can|could|may|might|sees|finds)\b)"
    r"(?! (?:different |distinct )?(?:size|colou?r|zone|region|shade|hue|type|class)(?:e?s)?\b)"
)


def _read_counts(scan: _Scan) -> None:
    for pattern, (low, high) in _COUNT_WORDS.items():
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", scan.lower):
            scan.take(Token("count", match[0], match.start(), match.end(), Count(low, high, explicit=True)))
    for match in _COUNT.finditer(scan.lower):
        fewest, most = _number(match["number"]), _number(match["high"] or match["number"])
        if fewest is None or most is None or fewest > most:
            continue
        count = _bounded(match["bound"] or "", fewest, most)
        scan.take(Token("count", match[0], match.start(), match.end(), count))
    for match in re.finditer(r"(?<![\w-])(?:an?|the|this|that|another)(?![\w-])", scan.lower):
        scan.take(Token("article", match[0], match.start(), match.end(), Count(1, 1, explicit=False)))


def _bounded(bound: str, low: int, high: int) -> Count:
    match bound.strip():
        case "at least" | "no fewer than":
            return Count(low, None, explicit=True)
        case "more than" | "over":
            return Count(low + 1, None, explicit=True)
        case "at most" | "up to":
            return Count(1, high, explicit=True)
        case "fewer than" | "less than":
            return Count(1, max(1, high - 1), explicit=True)
        case _:
            return Count(low, high, explicit=True)


def _number(word: str) -> int | None:
    if word in vocabulary.NUMBER_WORDS:
        return vocabulary.NUMBER_WORDS[word]
    return int(word) if word.isdigit() else None


def _read_rest(scan: _Scan) -> None:
    scan.take_all("qualifier", _QUALIFIERS)
    scan.take_all("picture", _PICTURE)
    for match in re.finditer(r"(?<![\w.])[a-z]?\d+(?:\.\d+)?|(?<=\d[a-z×x ])\d+", scan.lower):
        scan.take(Token("number", match[0], match.start(), match.end()))
    boundary = r"[.;:!?](?!\d)|\b(?:but|however|although|though|yet|while|whereas|except)\b"
    for match in re.finditer(boundary, scan.lower):
        scan.take(Token("boundary", match[0], match.start(), match.end()))


_READERS = (
    _read_types,
    _read_sizes,
    _read_names,
    _read_places,
    _read_negations,
    _read_sides,
    _read_colours,
    _read_counts,
    _read_rest,
)
