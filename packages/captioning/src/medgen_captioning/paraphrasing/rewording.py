"""Other words for a free caption: exchange words that mean the same, and the frame around them."""

import re
from random import Random

from medgen_captioning.prompts import article

# Any of a group may stand for any other in any sentence.
_GROUPS = (
    ("showing", "demonstrating", "revealing", "displaying", "depicting"),
    ("shows", "demonstrates", "reveals", "displays", "depicts"),
    ("showed", "demonstrated", "revealed", "displayed"),
    ("is seen", "is visible", "can be seen", "is observed"),
    ("are seen", "are visible", "can be seen", "are observed"),
    ("was seen", "was visible", "was observed"),
    ("image", "picture"),
    ("CT", "computed tomography"),
    ("MRI", "magnetic resonance imaging"),
    ("radiograph", "X-ray"),
    ("located in", "situated in", "found in"),
    ("predominantly", "mainly", "mostly", "chiefly"),
    ("with parts of", "with areas of", "with portions of"),
    ("appears", "looks", "seems"),
    ("well-defined", "well-demarcated", "sharply defined"),
    ("surrounding mucosa", "mucosa around it", "adjacent mucosa"),
    ("surrounding skin", "skin around it", "adjacent skin"),
    ("blurred", "blurry"),
    ("patch", "spot"),
    ("approximately", "about", "roughly"),
    ("due to", "because of", "owing to"),
    ("consistent with", "in keeping with", "compatible with"),
    ("marked with", "indicated by"),
    ("along with", "together with"),
    ("with no", "without any"),
    ("tumor", "tumour"),
    ("edema", "oedema"),
    ("hemorrhage", "haemorrhage"),
    ("hematoma", "haematoma"),
    ("esophagus", "oesophagus"),
    ("esophagitis", "oesophagitis"),
    ("color", "colour"),
    ("center", "centre"),
    ("gray", "grey"),
)
_CHOICES = {
    phrase.lower(): [other for other in group if other != phrase] for group in _GROUPS for phrase in group
}
_WORDS = re.compile(
    rf"(?<![\w-])(?:{'|'.join(re.escape(phrase) for phrase in sorted(_CHOICES, key=len, reverse=True))})(?![\w-])",
    re.IGNORECASE,
)
# A caption that is one noun phrase: "CT scan showing a mass".
_SHOWING = re.compile(
    r"(?P<what>[^.,;:]+?) (?P<verb>showing|demonstrating|revealing) (?P<seen>[^.;:()]+)\.?$"
)
_SHOWS = re.compile(
    r"(?P<what>[^.,;:]+?) (?P<verb>shows|showed|demonstrates|reveals) (?P<seen>[^.,;:()]+)\.?$"
)
_OF = re.compile(r"(?P<what>An? (?:\w+ )?image) of (?P<seen>[^.,;:]+)\.?$")


def reword(caption: str, random: Random) -> str:
    """Return a caption in other words, drawn at random; the same caption if no word can be exchanged.

    The facts are not checked here.

    Args:
        caption: One or several sentences.
        random: Generator of the choices.
    """
    text = _reframe(caption.strip(), random) if random.random() < 0.5 else caption.strip()
    text = _WORDS.sub(lambda found: _exchange(found, random), text)
    return _mend(text)


def _exchange(found: re.Match[str], random: Random) -> str:
    if random.random() < 0.4:
        return found[0]
    other = random.choice(_CHOICES[found[0].lower()])
    return other[0].upper() + other[1:] if found[0][0].isupper() and not found[0].isupper() else other


def _reframe(text: str, random: Random) -> str:
    if match := _OF.match(text):
        what, seen = match["what"], match["seen"]
        return random.choice(
            (f"{what} showing {seen}.", f"{what} that shows {seen}.", f"{_capital(seen)} in {_small(what)}.")
        )
    if match := _SHOWING.match(text):
        what, seen = match["what"], match["seen"]
        return random.choice((f"{what} that shows {seen}.", f"{what} in which {seen} can be seen."))
    if match := _SHOWS.match(text):
        what, seen = match["what"], match["seen"]
        return random.choice((f"{what} showing {seen}.", f"On {_small(what)}, {seen} can be seen."))
    return text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _small(text: str) -> str:
    """Begin in lower case, unless the first word is a name or an abbreviation."""
    first = text.split(" ", 1)[0]
    return text if any(letter.isupper() for letter in first[1:]) else text[0].lower() + text[1:]


def _mend(text: str) -> str:
    """Let articles agree with what follows them now, and end with one full stop."""
    text = re.sub(
        r"\b([Aa])n? (?=([A-Za-z][\w'-]*))",
        lambda found: f"{found[1]}{'n' if article(found[2]) == 'An' else ''} ",
        text,
    )
    return text if text.endswith((".", "!", "?")) else f"{text}."
