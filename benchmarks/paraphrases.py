"""Paraphrases by the grammar, and the check of facts that every paraphrase passes: counts, shares and seconds.

    uv run python benchmarks/paraphrases.py --prompts medvqa-gi-2024-prompts.csv [--pairs TABLE.csv ...] [--num 25]

PROMPTS is a table with the unique prompts of MedVQA-GI 2024 in a column `Prompt` or `caption`. TABLE holds faithful
paraphrases, columns `Prompt` and `Paraphrase`; those of the tests are taken where none is given.
"""

import argparse
import csv
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from medgen_captioning.clinical_facts import accepts
from medgen_captioning.clinical_facts.corruptions import corruptions
from medgen_captioning.paraphrasing.grammar import grammar_paraphrases

MIN_UNIQUE = 11_000  # MMCP 4.2.2: "from 483 to over 11,000"
MIN_REJECTED, MAX_FALSE = 0.99, 0.02
TABLES = Path(__file__).parents[1] / "packages" / "captioning" / "tests" / "data"
_NOUNS = r"(?:\w+ ){0,2}?(?:polyp|instrument|tool|lesion|finding|ulcer)"
# What no sentence may hold, told without the grammar's own rules.
BAD_ENGLISH = {
    "article": r"\b[Aa] (?:[aeio]|8\b|11\b|18\b)|\b[Aa]n (?:[b-df-hj-np-tv-z]|[0-79]\b|1\b|1[02-79]\b)",
    "number": (
        rf"\b(?:1|[Oo]ne|single) {_NOUNS}s\b|\b(?:[2-9]|1\d|[Tt]wo|[Tt]hree|[Ff]our|[Ff]ive|[Ss]ix) {_NOUNS}\b"
        r"|\b(?:polyps|instruments|tools|lesions|findings|landmarks) is\b"
    ),
    "doubled word": r"\b(?!is Is\b)(\w+) (?i:\1)\b",
    "stop": r"[^.]$|\..|^[^A-Z0-9]| [,.]|  |,,",
    "typo": r"\b[Aa]n an\b|rigth|and(?:tube|metal|oeso)|\bink\b|barretts",
}


def main() -> int:
    """Print the figures as JSON; 1 if one misses its bar."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, nargs="*", default=sorted(TABLES.glob("faithful*.csv")))
    parser.add_argument("--num", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prompts = read_prompts(options.prompts)
    figures: dict[str, Any] = {
        "grammar": grammar_figures(prompts, options.num, options.seed),
        "corruptions": corruption_figures(prompts),
        "faithful": {file.name: faithful_figures(file) for file in options.pairs},
    }
    print(json.dumps(figures, indent=1))
    missed = missed_bars(figures)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return bool(missed)


def read_prompts(file: Path) -> list[str]:
    """Return the unique prompts of a table, comma or semicolon separated."""
    text = file.read_text(encoding="utf-8")
    delimiter = ";" if ";" in text.split("\n", 1)[0] else ","
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    column = "Prompt" if "Prompt" in rows[0] else "caption"
    return list(dict.fromkeys(row[column] for row in rows))


def grammar_figures(prompts: Sequence[str], num: int, seed: int) -> dict[str, Any]:
    """Count what the grammar writes, and what is wrong with it."""
    start = time.process_time()
    written = grammar_paraphrases(prompts, num, seed)
    seconds = time.process_time() - start
    unique = set(chain.from_iterable(written))
    bad = {name: sum(bool(re.search(rule, text)) for text in unique) for name, rule in BAD_ENGLISH.items()}
    return {
        "num_prompts": len(prompts),
        "num_unique": len(unique),
        "fewest_of_a_prompt": min(len(texts) for texts in written),
        "num_originals_among_them": len(unique & set(prompts)),
        "bad_english": bad,
        "cpu_s": round(seconds, 2),
        "per_s": round(sum(map(len, written)) / seconds),
    }


def corruption_figures(prompts: Sequence[str]) -> dict[str, Any]:
    """Return how many false rewrites are refused, by kind."""
    made, refused = Counter[str](), Counter[str]()
    start = time.process_time()
    for prompt in prompts:
        for each in corruptions(prompt):
            made[each.kind] += 1
            refused[each.kind] += not accepts(prompt, each.text).accepted
    return {
        "num_made": made.total(),
        "share_refused": refused.total() / made.total(),
        "by_kind": {kind: f"{refused[kind]}/{made[kind]}" for kind in sorted(made)},
        "cpu_s": round(time.process_time() - start, 2),
    }


def faithful_figures(file: Path) -> dict[str, Any]:
    """Return how many faithful paraphrases of a table are refused."""
    with file.open(encoding="utf-8", newline="") as rows:
        pairs = [(row["Prompt"], row["Paraphrase"]) for row in csv.DictReader(rows)]
    refused = [pair for pair in pairs if not accepts(*pair).accepted]
    return {"num_pairs": len(pairs), "share_refused": len(refused) / len(pairs), "refused": refused}


def missed_bars(figures: dict[str, Any]) -> list[str]:
    """Name every figure that is on the wrong side of its bar."""
    grammar, made = figures["grammar"], figures["corruptions"]
    missed = [f"bad English: {name} {count}" for name, count in grammar["bad_english"].items() if count]
    if grammar["num_unique"] < MIN_UNIQUE:
        missed.append(f"{grammar['num_unique']} unique paraphrases, expected {MIN_UNIQUE} or more")
    if grammar["num_originals_among_them"]:
        missed.append("a paraphrase is an original prompt")
    if made["num_made"] < 500 or made["share_refused"] < MIN_REJECTED:
        missed.append(f"{made['share_refused']:.2%} of {made['num_made']} corruptions refused")
    for name, pairs in figures["faithful"].items():
        if pairs["share_refused"] > MAX_FALSE:
            missed.append(f"{pairs['share_refused']:.2%} of the faithful pairs in {name} refused")
    return missed


if __name__ == "__main__":
    sys.exit(main())
