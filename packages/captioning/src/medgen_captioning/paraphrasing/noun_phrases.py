"""Say one statement in words: number, colours, name, size, type, place; each in several ways.

All text is written in American spelling; `spelling` turns a whole sentence British.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from medgen_captioning.clinical_facts import ZONES, Count, Statement
from medgen_captioning.prompts import article

# How a thing is named; the first word is the plainest.
_COUNTED = {
    "polyp": ("polyp",),
    "dyed lifted polyp": ("dyed lifted polyp",),
    "ulcer": ("ulcer",),
    "finding": ("abnormality", "finding", "lesion", "anomaly", "pathological finding"),
    "instrument": (
        "instrument",
        "medical instrument",
        "endoscopic instrument",
        "surgical instrument",
        "tool",
    ),
    "anatomical landmark": ("anatomical landmark", "anatomic landmark", "landmark"),
    "tube": ("tube",),
    "polyp snare": ("polyp snare", "polypectomy snare", "snare"),
    "metal clip": ("metal clip", "metallic clip", "endoscopic clip"),
    "injection needle": ("injection needle", "needle for injection"),
    "box artefact": ("box artifact", "box-shaped artifact"),
}
_MASS = {
    "text": ("text", "written text", "textual information", "a text overlay"),
    "oesophagitis": ("esophagitis", "signs of esophagitis", "inflammation of the esophagus"),
    "ulcerative colitis": (
        "ulcerative colitis",
        "signs of ulcerative colitis",
        "mucosa with ulcerative colitis",
    ),
    "barrett's oesophagus": ("Barrett's esophagus", "Barrett's mucosa", "signs of Barrett's esophagus"),
    "biopsy forceps": ("biopsy forceps", "a pair of biopsy forceps"),
    "z-line": ("the Z-line", "the Z line", "the squamocolumnar junction"),
    "cecum": ("the cecum", "the cecal region"),
    "ileum": ("the ileum", "the ileal mucosa"),
    "pylorus": ("the pylorus", "the pyloric region", "the pyloric opening"),
    "lumen": ("the lumen",),
}
NAMED = frozenset(_COUNTED) | frozenset(_MASS)
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_SIZES = re.compile(r"(?P<sign>[<>]?)(?P<low>[\d.]+)(?:-(?P<high>[\d.]+))?mm")


@dataclass(frozen=True)
class NounPhrase:
    """A thing in words.

    Attributes:
        text: E.g. `two polyps measuring 5-10 mm`.
        place: Where it is, e.g. `in the upper left of the image`; kept apart since it can also follow a verb.
        plural: Whether a verb with it is plural.
    """

    text: str
    place: str
    plural: bool


def can_be_said(statement: Statement) -> bool:
    """Return whether this module has words for all that a statement states."""
    count = statement.count
    known_count = count is None or (count.low, count.high) == (2, None) or count.low == count.high
    return (
        statement.entity in NAMED
        and known_count
        and all(_SIZES.fullmatch(size) for size in statement.sizes)
        and statement.places <= set(ZONES)
        and (statement.entity not in _MASS or (count is None and not statement.colours))
    )


def say(statement: Statement, picture: str, random: Random) -> NounPhrase:
    """Return a statement of something present in words, drawn at random.

    Args:
        statement: What is there; see `can_be_said`.
        picture: What the picture is called in the sentence, e.g. `frame`.
        random: Generator of the choices.
    """
    place = _place_words(statement.places, picture, random) if statement.places else ""
    if statement.entity in _MASS:
        text = random.choice(_MASS[statement.entity])
        return NounPhrase(text, place, text.startswith(("signs", "biopsy")))
    plural = statement.count is not None and statement.count.high != 1
    noun = random.choice(_COUNTED[statement.entity])
    before, after = _colour_words(statement, plural, random)
    nouns = f"{before} {pluralise(noun) if plural else noun}".strip()
    text = _with_number(nouns, statement.count, random)
    modifiers = [
        after,
        _type_words(statement.types, plural, random),
        _size_words(statement.sizes, plural, random),
    ]
    return NounPhrase(" ".join([text, *(words for words in modifiers if words)]), place, plural)


def say_name(statement: Statement, random: Random) -> tuple[str, bool]:
    """Return what an absent thing is called, without article, and whether it is plural: `polyps`."""
    if statement.entity in _MASS:
        names = [name for name in _MASS[statement.entity] if not name.startswith("a ")]
        name = random.choice(names)
        return name.removeprefix("the "), name.startswith(("signs", "biopsy"))
    before, after = _colour_words(statement, True, random)
    text = f"{before} {pluralise(random.choice(_COUNTED[statement.entity]))} {after}".strip()
    return text, True


def pluralise(noun: str) -> str:
    """Return the plural of a name; what follows `for` or `of` stays.

    >>> [pluralise(noun) for noun in ("polyp", "abnormality", "needle for injection")]
    ['polyps', 'abnormalities', 'needles for injection']
    """
    head, *rest = noun.split(" for ")
    plural = re.sub(r"y$", "ies", head) if re.search(r"[^aeiou]y$", head) else f"{head}s"
    return " for ".join([plural, *rest])


def join_words(words: Sequence[str], random: Random, *, conjunction: str = "and") -> str:
    """Return a list in words; the comma before the conjunction comes by chance."""
    if len(words) == 1:
        return words[0]
    comma = "," if len(words) > 2 and random.random() < 0.5 else ""
    return f"{', '.join(words[:-1])}{comma} {conjunction} {words[-1]}"


def with_article(words: str) -> str:
    """Return words after `a` or `an`.

    >>> with_article("orange polyp"), with_article("11-20 mm polyp")
    ('an orange polyp', 'an 11-20 mm polyp')
    """
    spoken_vowel = words.startswith(("8", "11", "18"))
    return f"{'an' if spoken_vowel or (article(words) == 'An' and not words[0].isdigit()) else 'a'} {words}"


def _with_number(nouns: str, count: Count | None, random: Random) -> str:
    if count is None or (count.low == count.high == 1 and not count.explicit):
        return with_article(nouns)
    if count.high is None:
        return f"{random.choice(('multiple', 'several', 'numerous'))} {nouns}" if count.explicit else nouns
    if count.high == 1:
        return f"{random.choice(('one', 'a single', 'exactly one', 'only one', 'just one', '1'))} {nouns}"
    figure, word = str(count.low), _NUMBERS[count.low] if count.low < len(_NUMBERS) else str(count.low)
    prefix = random.choice(("", "", "exactly ", "a total of "))
    return f"{prefix}{random.choice((figure, word, word))} {nouns}"


def _colour_words(statement: Statement, plural: bool, random: Random) -> tuple[str, str]:
    """Return words before and after the noun."""
    colours = [colour.replace("grey", "gray") for colour in sorted(statement.colours)]
    random.shuffle(colours)
    if not colours:
        return "", ""
    if statement.entity == "box artefact":
        return random.choice(("/", " or ")).join(colours), ""  # the data set has boxes of either
    listed = join_words(colours, random)
    if len(colours) <= 2 and random.random() < 0.4:
        return listed, ""
    hues = random.choice(("hues", "tones", "shades"))
    verb = "are" if plural else "is"
    after: tuple[str, ...] = (
        f"with the {'colors' if len(colours) > 1 else 'color'} {listed}",
        f"colored {listed}",
        f"that {verb} {listed} in color",
        f"that {verb} {listed}",
        f"in {listed}",
    )
    if len(colours) > 1:
        after += (f"with {listed} {hues}", f"exhibiting {listed} {hues}", f"in {hues} of {listed}")
    else:
        after += (f"of {with_article(f'{listed} color')}", f"with {with_article(f'{listed} color')}")
    return "", random.choice(after)


def _type_words(types: frozenset[str], plural: bool, random: Random) -> str:
    if not types:
        return ""
    names = [
        {"ip": "Ip", "is": "Is", "isp": "Isp"}.get(name, name.upper()[:-1] + name[-1])
        for name in sorted(types)
    ]
    random.shuffle(names)
    many = "s" if len(names) > 1 else ""
    listed, each = join_words(names, random), join_words([f"Paris {name}" for name in names], random)
    verb = "are" if plural else "is"
    return random.choice(
        (
            f"of Paris type{many} {listed}",
            f"of type{many} {each}",
            f"classified as {each}",
            f"that {verb} classified as {each}",
            f"with Paris classification{many} {listed}",
            f"of Paris class{'es' if many else ''} {listed}",
            f"(Paris type{many} {listed})",
        )
    )


def _size_words(sizes: frozenset[str], plural: bool, random: Random) -> str:
    if not sizes:
        return ""
    unit = random.choice((" mm", "mm", " millimeters"))
    below_and_above = {"<": -0.5, ">": 0.5}
    ordered = sorted(
        sizes, key=lambda size: float(_match_size(size)["low"]) + below_and_above.get(size[0], 0.0)
    )
    low = random.choice(("less than", "under", "below"))
    high = random.choice(("more than", "over", "above"))
    between = random.choice(("{}-{}", "{} to {}", "between {} and {}")[: 3 if len(sizes) == 1 else 2])
    listed = join_words([_one_size(size, unit, low, high, between) for size in ordered], random)
    verb = "measure" if plural else "measures"
    sized = f"with {'sizes' if plural and len(sizes) > 1 else 'a size'} of {listed}"
    return random.choice(
        (f"measuring {listed}", f"that {verb} {listed}", sized, f"measuring {listed} in size")
    )


def _match_size(size: str) -> re.Match[str]:
    match = _SIZES.fullmatch(size)
    if match is None:
        raise ValueError(f"size must be like <5mm, 5-10mm or >20mm, got {size!r}")
    return match


def _one_size(size: str, unit: str, low: str, high: str, between: str) -> str:
    match = _match_size(size)
    if match["high"]:
        return between.format(match["low"], match["high"]) + unit
    words = {"<": f"{low} ", ">": f"{high} "}.get(match["sign"], "")
    return f"{words}{match['low']}{unit}"


def _place_words(places: frozenset[str], picture: str, random: Random) -> str:
    missing = [zone for zone in ZONES if zone not in places]
    name = _zone_namer(random)
    if not missing:
        whole = (
            "in all nine zones of the {}",
            "throughout the {}",
            "in every region of the {}",
            "across the whole {}",
        )
        return random.choice(whole).format(picture)
    if len(missing) == 1 and random.random() < 0.4:
        return f"in all zones of the {picture} except the {name(missing[0])}"
    zones = [zone for zone in ZONES if zone in places]
    match random.randrange(3):
        case 0:
            random.shuffle(zones)
        case 1:
            zones.sort(key=lambda zone: zone != "center")
        case _:
            pass  # row by row
    listed = join_words([name(zone) for zone in zones], random)
    part = random.choice(("", "", "region", "part", "area", "zone"))
    if zones[-1] == "center":
        part = ""  # "the center area" is ambiguous
    parts = f" {part}{'s' if len(zones) > 1 else ''}" if part else ""
    of = f" of the {picture}" if parts or random.random() < 0.5 else ""
    return f"in the {listed}{parts}{of}"


def _zone_namer(random: Random) -> Callable[[str], str]:
    """Return a function that names zones in one style throughout a sentence."""
    rows = random.choice((("upper", "lower"), ("upper", "lower"), ("top", "bottom")))
    middle = random.choice(("center", "center", "middle"))
    separator = random.choice(("-", " "))

    def name(zone: str) -> str:
        words = zone.split("-")
        named = [{"upper": rows[0], "lower": rows[1], "center": middle}.get(word, word) for word in words]
        return separator.join(named)

    return name
