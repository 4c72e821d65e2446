"""Paraphrases without a model: read what a prompt states, say it in other words.

For the templates of MedVQA-GI (Chaichuk et al. 2025, section 4.3, had GPT-3.5 write such texts) the whole
sentence is built anew from its facts. Of other captions single words and the frame are exchanged.
"""

import hashlib
import re
from collections.abc import Sequence
from random import Random

from medgen_captioning.clinical_facts import facts_of
from medgen_captioning.clinical_facts.tokens import normalise, tokens_of
from medgen_captioning.paraphrasing.judge import judge
from medgen_captioning.paraphrasing.rewording import reword
from medgen_captioning.paraphrasing.templates import can_be_phrased, phrase

# Draws per wanted paraphrase before a prompt is taken to have no more.
_MAX_DRAWS = 12
_PLAIN_WORDS = frozenset(
    (
        *(
            "generate",
            "create",
            "produce",
            "make",
            "show",
            "please",
            "image",
            "medical",
            "procedure",
            "mucosa",
        ),
        *(
            "a",
            "an",
            "the",
            "and",
            "or",
            "of",
            "with",
            "without",
            "in",
            "at",
            "on",
            "from",
            "that",
            "any",
            "not",
        ),
        *("contain", "containing", "located", "situated", "visible", "is", "are"),
        *("color", "colors", "colour", "colours", "size", "sizes", "type", "types", "paris"),
    )
)


def grammar_paraphrases(prompts: Sequence[str], num: int, seed: int) -> list[list[str]]:
    """Return up to `num` paraphrases of each prompt; each states what its prompt states.

    What a prompt gets depends on its text and the seed alone, not on the other prompts.

    Args:
        prompts: Sentences; templates of MedVQA-GI get most, free captions as many as their words allow.
        num: How many of each, at most.
        seed: The same seed gives the same paraphrases.

    Returns:
        One list per prompt, without repeats and without the prompt itself; shorter than `num`, or empty,
        if there are no more.

    Raises:
        ValueError: If `num` is less than 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    return [_paraphrases(prompt, num, seed) for prompt in prompts]


def is_fully_understood(prompt: str) -> bool:
    """Return whether a prompt says nothing beyond its facts, so that it can be built anew from them.

    >>> is_fully_understood("Generate an image with 2 polyps.")
    True
    >>> is_fully_understood("Generate an image with 2 polyps on a haustral fold.")
    False
    """
    text = normalise(prompt)
    rest = list(text.lower())
    for token in tokens_of(text):
        rest[token.start : token.end] = " " * (token.end - token.start)
    return set(re.findall(r"[a-z'-]+", "".join(rest))) <= _PLAIN_WORDS


def _paraphrases(prompt: str, num: int, seed: int) -> list[str]:
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    random = Random(int.from_bytes(digest[:8], "big"))
    facts = facts_of(prompt)
    from_facts = can_be_phrased(facts) and is_fully_understood(prompt)
    found: dict[str, None] = {}
    for _ in range(num * _MAX_DRAWS):
        text = phrase(facts, random) if from_facts else reword(prompt, random)
        if text not in found and judge(prompt, text).accepted:
            found[text] = None
            if len(found) == num:
                break
    return list(found)
