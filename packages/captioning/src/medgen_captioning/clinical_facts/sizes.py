"""Sizes in words and figures, as classes: `<5mm`, `5-10mm`, `11-20mm`, `>20mm`."""

import re

_NUMBER = r"\d+(?:\.\d+)?"
_WORDS = r"five|ten|eleven|twenty"
_VALUE = rf"(?:{_NUMBER}|{_WORDS})"
UNIT = r"(?:-? ?(?:mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?)(?![a-z]))"
_BELOW = (
    r"(?:<|no more than|not more than|less than|smaller than|fewer than|shorter than|under|below|sub-|beneath|up to"
    r"|at most|<=|≤)"
)
_ABOVE = (
    r"(?:>|no less than|not less than|more than|larger than|bigger than|greater than|over|above|exceed(?:ing|s)?"
    r"|beyond|at least|>=|≥|in excess of|upwards of)"
)
_CLOSED = {
    "up to",
    "at most",
    "<=",
    "≤",
    "no more than",
    "not more than",
    "at least",
    ">=",
    "≥",
    "no less than",
}
_RANGE = rf"(?:between )?(?P<low>{_VALUE}){UNIT}?(?: ?- ?| to |-to-| and | through )(?P<high>{_VALUE})"
_ONE = (
    rf"(?P<below>{_BELOW}) ?(?P<most>{_VALUE})|(?P<above>{_ABOVE}) ?(?P<least>{_VALUE})"
    rf"|(?P<more>{_VALUE}){UNIT}? (?:or|and) (?P<dir>more|larger|bigger|over|less|smaller|under)"
    rf"|{_RANGE}|(?P<exact>{_NUMBER})"
)
# The unit may come once, after the last: "less than 5 and 5-10 mm".
SIZE = re.compile(rf"(?<![\w.])(?<!\d-)(?:{_ONE})(?P<unit>{UNIT})?(?P<plus>\+)?")
_FOLLOWED_BY_UNIT = re.compile(rf"(?:,? ?(?:and|or|,|/)?,? ?(?:{re.sub('[?]P<[a-z]+>', '?:', _ONE)}))+{UNIT}")
_WORD_VALUES = {"five": 5.0, "ten": 10.0, "eleven": 11.0, "twenty": 20.0}


def is_size(text: str, match: re.Match[str]) -> bool:
    """Return whether the number of a match of `SIZE` has a unit, of its own or shared with what follows."""
    return bool(match["unit"]) or bool(_FOLLOWED_BY_UNIT.match(text, match.end()))


def size_class(text: str, match: re.Match[str]) -> str:
    """Return the class that a match of `SIZE` names, in millimetres."""
    unit = match["unit"]
    if not unit:
        after = _FOLLOWED_BY_UNIT.match(text, match.end())
        unit = after[0] if after else "mm"
    scale = 10.0 if re.search(r"cm|centi", unit) else 1.0
    if match["below"]:
        return f"{'<=' if match['below'] in _CLOSED else '<'}{_millimetres(match['most'], scale)}mm"
    if match["above"]:
        return f"{'>=' if match['above'] in _CLOSED else '>'}{_millimetres(match['least'], scale)}mm"
    if match["more"]:
        sign = "<=" if match["dir"] in ("less", "smaller", "under") else ">="
        return f"{sign}{_millimetres(match['more'], scale)}mm"
    if match["low"]:
        return f"{_millimetres(match['low'], scale)}-{_millimetres(match['high'], scale)}mm"
    return f"{_millimetres(match['exact'], scale)}mm"


def _millimetres(value: str, scale: float) -> str:
    return f"{_value(value) * scale:g}"


def _value(value: str) -> float:
    return _WORD_VALUES[value] if value in _WORD_VALUES else float(value)
