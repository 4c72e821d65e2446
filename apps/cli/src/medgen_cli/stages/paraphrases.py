"""Paraphrases: other words for the prompts of images, beside the captions."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.language_model import LanguageModelParaphraser
from medgen_captioning.paraphrasing import (
    ImageText,
    ParaphraseConfig,
    ParaphrasePlan,
    Paraphraser,
    ParaphraseRun,
    apply_strategy,
    grammar_paraphrases,
    paraphrase_rows,
    plan_paraphrases,
    read_paraphrases,
    write_image_texts,
    write_paraphrases,
)
from medgen_data.atomic import write_jsonl_atomic
from medgen_data.problems import DataError

from medgen_cli.run_folder import lock_folder
from medgen_cli.settings import ParaphraseSettings


@dataclass(frozen=True)
class ModelAccess:
    """What a run with a language model may do, which is no matter of a recipe.

    Attributes:
        cache_file: Where its answers are kept; None: beside the table.
        allow_egress: Hosts besides this machine that prompts may be sent to.
    """

    cache_file: Path | None = None
    allow_egress: Collection[str] = ()


def make_paraphrases(
    images: Sequence[ImageText],
    table_file: Path,
    settings: ParaphraseSettings,
    *,
    seed: int,
    access: ModelAccess = ModelAccess(),
    on_progress: Callable[[int, int], None] | None = None,
) -> ParaphraseRun:
    """Write the table `Filename,Prompt,Paraphrase`; continues what an interrupted run left.

    What was not taken is listed, with its reason, in a file `*.rejected.jsonl` beside the table.

    Raises:
        DataError: If no prompt got any paraphrase.
        UsageError: If another process writes the same table.
    """
    table_file.parent.mkdir(parents=True, exist_ok=True)
    with (
        lock_folder(table_file.parent, f".{table_file.name}.lock"),
        _paraphraser(settings, table_file, access) as paraphraser,
    ):
        failures = paraphraser.failures if isinstance(paraphraser, LanguageModelParaphraser) else {}
        return paraphrase_rows(
            images,
            paraphraser,
            table_file,
            method=_method_name(settings),
            seed=seed,
            num=settings.per_prompt,
            why_none=failures.get,
            on_progress=on_progress,
        )


@dataclass(frozen=True)
class TableOutcome:
    """What is in a table, and how many rows or prompts are not."""

    num_rows: int
    num_problems: int


def paraphrase_for_training(
    images: Sequence[ImageText],
    table_file: Path,
    settings: ParaphraseSettings,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> TableOutcome:
    """Write the paraphrases that a training reads: new ones, or the faithful ones of `settings.file`.

    Raises:
        DataError: If there is none.
    """
    if settings.file is None:
        done = make_paraphrases(images, table_file, settings, seed=seed, on_progress=on_progress)
        num_problems = sum(problem.code == "no-paraphrase" for problem in done.problems)
        return TableOutcome(len(read_paraphrases(table_file, judged=False)[0]), num_problems)
    rows, problems = read_paraphrases(settings.file)
    if not rows:
        raise DataError(f"{settings.file}: no usable row" + "".join(f"; {p}" for p in problems[:1]))
    write_jsonl_atomic(
        table_file.with_suffix(".rejected.jsonl"), (problem.model_dump(mode="json") for problem in problems)
    )
    write_paraphrases(table_file, rows)
    return TableOutcome(len(rows), len(problems))


def plan_of_paraphrases(
    images: Sequence[ImageText], table_file: Path, settings: ParaphraseSettings, *, seed: int
) -> ParaphrasePlan:
    """Return what `make_paraphrases` would do; nothing is written and no model is loaded."""
    return plan_paraphrases(
        images, table_file, method=_method_name(settings), seed=seed, num=settings.per_prompt
    )


def most_answers(plan: ParaphrasePlan, settings: ParaphraseSettings) -> int:
    """Return how many answers of a language model a plan needs at most, if none is kept from before."""
    model = settings.language_model
    return 0 if model is None else (plan.num_prompts - plan.num_done) * model.max_attempts


def write_mixed_texts(
    images: Sequence[ImageText], table_file: Path, texts_file: Path, config: ParaphraseConfig, *, seed: int
) -> int:
    """Mix prompts and paraphrases as a strategy says, write them as `Prompt;Filename`, and return their number.

    Images whose prompt has no paraphrase keep their prompt.
    """
    rows, _ = read_paraphrases(table_file, judged=False)  # judged when they were written
    paired = {(row.file_name, row.prompt) for row in rows}
    left = [image for image in images if (image.file_name, image.text) not in paired]
    texts = [*apply_strategy(rows, config, seed), *left]
    write_image_texts(texts_file, texts)
    return len(texts)


@contextmanager
def _paraphraser(
    settings: ParaphraseSettings, table_file: Path, access: ModelAccess
) -> Iterator[Paraphraser]:
    model = settings.language_model
    if model is None:
        yield grammar_paraphrases
        return
    key = os.environ.get(model.server.api_key_env) if model.server is not None else None
    with CaptionCache(access.cache_file or table_file.with_suffix(".cache.sqlite")) as cache:
        yield LanguageModelParaphraser(model, cache, api_key=key or None, allow_egress=access.allow_egress)


def _method_name(settings: ParaphraseSettings) -> str:
    """Name the method with all that decides what it writes, so that work of another one is not mixed in."""
    model = settings.language_model
    if model is None:
        return f"{settings.method} 1"
    return f"llm {hashlib.sha256(model.model_dump_json().encode()).hexdigest()[:16]}"
