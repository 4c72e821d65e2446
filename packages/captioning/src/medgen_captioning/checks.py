"""Checks that a caption written by a model must pass before anything is trained on it.

Each check has a name, which stands in the row of a caption that passed, and a reason for one that failed,
which stands in the quarantine.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Demands:
    """What is demanded of one caption.

    Attributes:
        opening: What it must begin with; None: anything.
        max_words: Most words.
        features: The feature list of the request, which must not be echoed; None: there was none.
        max_tokens: Most tokens, as `count_tokens` counts; None: no limit.
        count_tokens: Length in the tokenizer of the model to be trained.
        whole: Whether its last sentence must be ended: a model stopped at its longest answer breaks off.
    """

    opening: str | None
    max_words: int
    features: str | None = None
    max_tokens: int | None = None
    count_tokens: CountTokens | None = None
    whole: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the checks said about one text.

    Attributes:
        text: The text, white space put in order.
        passed: Names of the checks passed.
        failed: Name and reason of each check failed.
    """

    text: str
    passed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def only_too_long(self) -> bool:
        """Whether shortening could help: nothing failed but length, and perhaps what length caused."""
        names = {name for name, _ in self.failed}
        return bool(names & {"max-tokens", "max-words"}) and names <= {"max-tokens", "max-words", "whole"}


def judge(text: str, demands: Demands) -> Verdict:
    """Check one caption.

    Args:
        text: As the model wrote it; runs of white space count as one space.
        demands: What is demanded.
    """
    text = " ".join(text.split())
    if not text:
        return Verdict(text, (), (("not-empty", "the answer is empty"),))
    reasons = {
        "not-empty": None,
        "plain-text": _not_plain(text),
        "language": _not_english(text),
        "max-words": _too_many_words(text, demands.max_words),
    }
    if demands.opening is not None:
        reasons["opening"] = _wrong_opening(text, demands.opening)
    if demands.whole:
        reasons["whole"] = _broken_off(text)
    if demands.features is not None:
        reasons["no-echo"] = _echo(text, demands.features)
    if demands.count_tokens is not None and demands.max_tokens is not None:
        reasons["max-tokens"] = _too_many_tokens(demands.count_tokens(text), demands.max_tokens)
    return Verdict(
        text,
        tuple(name for name, reason in reasons.items() if reason is None),
        tuple((name, reason) for name, reason in reasons.items() if reason is not None),
    )


def _wrong_opening(text: str, opening: str) -> str | None:
    rest = text[len(opening) :]
    if text.startswith(opening) and not rest[:1].isalnum():
        return None
    return f"must begin with {opening!r}, got {text[: len(opening)]!r}"


def _broken_off(text: str) -> str | None:
    ended = text.rstrip("\"')]*").endswith((".", "!", "?"))
    return None if ended else f"breaks off in the middle of a sentence: {text[-30:]!r}"


def _too_many_words(text: str, max_words: int) -> str | None:
    num_words = len(text.split())
    return None if num_words <= max_words else f"must have at most {max_words} words, got {num_words}"


def _too_many_tokens(num_tokens: int, max_tokens: int) -> str | None:
    return None if num_tokens <= max_tokens else f"must have at most {max_tokens} tokens, got {num_tokens}"


def _echo(text: str, features: str) -> str | None:
    """The request given back: its feature list, the first three features of it, or its own words."""
    lower = text.lower()
    listed = [part.strip() for part in features.lower().split(",")]
    repeated = [features.lower(), "following visual features", "please describe the"]
    if len(listed) >= 3:
        repeated.append(", ".join(listed[:3]))
    found = next((words for words in repeated if words in lower), None)
    return None if found is None else f"echoes the request: {found!r}"


# Markup, addresses, role marks of chat templates, and characters that are not for reading.
_MARKUP: Sequence[tuple[str, re.Pattern[str]]] = (
    ("HTML", re.compile(r"</?[a-zA-Z][^<>]*>|<!--|<!\w|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]{1,6});")),
    ("a link", re.compile(r"\bhttps?:|\bwww\.|\bjavascript:|\]\(|\bdata:\w+/", re.IGNORECASE)),
    ("a code fence or placeholder", re.compile(r"```|\{\{|\}\}|\$\{")),
    (
        "a role mark",
        re.compile(
            r"<\||\|>|\[/?INST\]|<</?SYS>>|</?s>|(?:^|[.\s])(?:system|assistant|user|human)\s*:",
            re.IGNORECASE,
        ),
    ),
    (
        "an unreadable character",
        re.compile("[\x00-\x1f\x7f-\x9f\ufffd\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ue000-\uf8ff]"),
    ),
)
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:instructions?|prompts?|rules|above|previous)\b"
    r"|\b(?:you are now|new instructions?|system prompt|developer mode|act as an?|pretend to be)\b"
    r"|\bas an ai\b|\b(?:language|ai) model\b|\bi(?:'m| am) (?:sorry|unable|not able)\b|\bi can(?:no|')t\b",
    re.IGNORECASE,
)


def _not_plain(text: str) -> str | None:
    for what, pattern in _MARKUP:
        if found := pattern.search(text):
            return f"holds {what}: {found.group()!r}"
    if found := _INSTRUCTION.search(text):
        return f"speaks to the reader instead of describing: {found.group()!r}"
    return None


# Words that a caption of any length uses, in English and in languages written with the same letters. What two of
# these languages share, such as `in`, `die` or `no`, says nothing and is left out.
_ENGLISH_WORDS = """an and are appears at by edge from has have image it its lies of or shows the there this to
    which with within without"""
_FOREIGN_WORDS = """aber au aux auf avec bei bez bild che con dans das dei del della delle dem den der des det di
    ein eine einem einen einer el en een est et für het il imagen immagine ist jest les los med mit met nella nicht
    och oder para por que sind sur sont und une van vom von zu zum zur è és är"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_FOREIGN = frozenset(_FOREIGN_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+")


def _not_english(text: str) -> str | None:
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return "has no letters"
    if not text.isascii():
        letters = [letter for letter in text if letter.isalpha()]
        other = [letter for letter in letters if not _is_latin(letter)]
        # A Greek letter or two is a unit; a tenth of the text is another script.
        if len(other) > max(2, len(letters) // 10):
            return f"is written in another script: {''.join(other[:10])!r}"
    foreign = [word for word in words if word in _FOREIGN]
    if len(foreign) > sum(word in _ENGLISH for word in words):
        return f"is written in another language: {' '.join(foreign[:5])!r}"
    return None


def _is_latin(letter: str) -> bool:
    # Basic Latin, Latin-1, Latin Extended A and B, and the Latin additions.
    return letter < "\u0250" or "\u1e00" <= letter <= "\u1eff"
