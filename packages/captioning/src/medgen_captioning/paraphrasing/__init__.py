"""Paraphrases that keep the facts: written by a grammar or a model, judged, stored, and mixed into training."""

from medgen_captioning.paraphrasing.grammar import grammar_paraphrases
from medgen_captioning.paraphrasing.judge import Judged, Paraphraser, Rejection, judge, judge_all
from medgen_captioning.paraphrasing.paraphrase_files import (
    ParaphraseRun,
    paraphrase_rows,
    read_paraphrases,
    write_paraphrases,
)
from medgen_captioning.paraphrasing.strategies import (
    ImageText,
    ParaphraseConfig,
    ParaphraseRow,
    add,
    apply_strategy,
    draw_text,
    pair,
    replace_all,
    replace_random,
)

__all__ = [
    "ImageText",
    "Judged",
    "ParaphraseConfig",
    "ParaphraseRow",
    "ParaphraseRun",
    "Paraphraser",
    "Rejection",
    "add",
    "apply_strategy",
    "draw_text",
    "grammar_paraphrases",
    "judge",
    "judge_all",
    "pair",
    "paraphrase_rows",
    "read_paraphrases",
    "replace_all",
    "replace_random",
    "write_paraphrases",
]
