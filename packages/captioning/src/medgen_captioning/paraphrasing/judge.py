"""Judge a paraphrase, wherever it comes from: its form, then its facts; and the interface of what writes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from medgen_captioning.clinical_facts import Verdict, accepts
from medgen_captioning.clinical_facts.tokens import normalise

# A paraphrase this much longer than its prompt tells more than it.
_MAX_LENGTH_RATIO = 4
_MAX_EXTRA_WORDS = 20
_CHATTER = re.compile(
    r"\b(?:as an ai|language model|i cannot|i can't|i'm sorry|here (?:is|are) (?:a|the|your|some)|paraphras|rephras"
    r"|rewrit"
    r"|original (?:prompt|sentence|text)|ignore (?:all|any|previous|the)|system prompt|instructions?)\b|^sure\b"
    r"|https?://|</?[a-z][^>]*>|```|\{\{|\[/?inst\]"
)


class Paraphraser(Protocol):
    """Anything that writes paraphrases: a grammar, a language model, a server."""

    def __call__(self, prompts: Sequence[str], num: int, seed: int) -> list[list[str]]:
        """Return up to `num` texts for each prompt, in the order of the prompts; they are judged afterwards."""
        ...


@dataclass(frozen=True)
class Rejection:
    """A paraphrase that was not taken, and why."""

    prompt: str
    paraphrase: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """What a paraphraser wrote, sorted.

    Attributes:
        accepted: Paraphrases of each prompt, in the order of the prompts, without repeats.
        rejections: All others, repeats not counted.
    """

    accepted: tuple[tuple[str, ...], ...]
    rejections: tuple[Rejection, ...]


def judge(prompt: str, paraphrase: str) -> Verdict:
    """Judge one paraphrase: is it one clean sentence in English, and does it state what the prompt states?

    >>> judge("Generate an image with no polyps.", "Create an image showing 2 polyps.").reasons
    ('polyp is stated as absent in the original, as present in the rewrite',)
    """
    problems = form_problems(prompt, paraphrase)
    return Verdict(accepted=False, reasons=problems) if problems else accepts(prompt, paraphrase)


def judge_all(paraphraser: Paraphraser, prompts: Sequence[str], num: int, seed: int) -> Judged:
    """Let a paraphraser write, and keep what passes.

    Raises:
        ValueError: If it does not return one list per prompt.
    """
    written = paraphraser(prompts, num, seed)
    if len(written) != len(prompts):
        raise ValueError(
            f"the paraphraser must return one list per prompt: {len(prompts)}, got {len(written)}"
        )
    accepted, rejections = [], []
    for prompt, texts in zip(prompts, written, strict=True):
        kept = []
        for text in dict.fromkeys(text.strip() for text in texts):
            verdict = judge(prompt, text)
            if verdict.accepted:
                kept.append(text)
            else:
                rejections.append(Rejection(prompt, text, verdict.reasons))
        accepted.append(tuple(kept[:num]))
    return Judged(tuple(accepted), tuple(rejections))


def form_problems(prompt: str, paraphrase: str) -> tuple[str, ...]:
    """Return what is wrong with the form of a paraphrase, whatever it states; empty if nothing is."""
    text = paraphrase.strip()
    if not text:
        return ("the paraphrase is empty",)
    problems = []
    if normalise(text).casefold().rstrip(".") == normalise(prompt).casefold().rstrip("."):
        problems.append("the paraphrase repeats the prompt")
    if "\n" in text or "\t" in text:
        problems.append("the paraphrase must be one line")
    if _CHATTER.search(normalise(text).casefold()):
        problems.append("the paraphrase holds markup or talks about the task")
    foreign = sum(letter.isalpha() and not letter.isascii() for letter in text)
    if foreign > 0.1 * len(text):
        problems.append(f"the paraphrase must be in English, {foreign} of its letters are not")
    most = max(_MAX_LENGTH_RATIO * len(prompt.split()), len(prompt.split()) + _MAX_EXTRA_WORDS)
    if len(text.split()) > most:
        problems.append(f"the paraphrase has {len(text.split())} words, at most {most} for this prompt")
    # "whose Paris type is Is" doubles nothing.
    if repeated := re.search(r"\b(?!is Is\b)(\w+) (?i:\1)\b", text):
        problems.append(f"the word {repeated[1]!r} is doubled")
    return tuple(problems)
