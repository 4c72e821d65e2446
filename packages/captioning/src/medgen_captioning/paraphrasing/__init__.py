"""Paraphrases that keep the facts: written by a grammar or a model, judged, stored, and mixed into training."""

from medgen_captioning.paraphrasing.grammar import grammar_paraphrases
from medgen_captioning.paraphrasing.judge import Judged, Paraphraser, Rejection, judge, judge_all
from medgen_captioning.paraphrasing.paraphrase_files import (
    ParaphrasePlan,
    ParaphraseRun,
    paraphrase_rows,
    plan_paraphrases,
    read_paraphrases,
    write_image_texts,
    write_paraphrases,
)
from medgen_captioning.paraphrasing.sources import read_image_texts
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
    "ParaphrasePlan",
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
    "plan_paraphrases",
    "read_image_texts",
    "read_paraphrases",
    "replace_all",
    "replace_random",
    "write_image_texts",
    "write_paraphrases",
]
