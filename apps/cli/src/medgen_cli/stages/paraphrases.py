"""Paraphrases: other words for the prompts of images, beside the captions."""

from collections.abc import Callable, Sequence
from pathlib import Path

from medgen_captioning.paraphrasing import (
    ImageText,
    ParaphraseConfig,
    ParaphraseRun,
    apply_strategy,
    grammar_paraphrases,
    paraphrase_rows,
    plan_paraphrases,
    read_paraphrases,
    write_image_texts,
)
from medgen_captioning.paraphrasing.paraphrase_files import ParaphrasePlan

from medgen_cli.run_folder import lock_folder
from medgen_cli.settings import ParaphraseSettings


def make_paraphrases(
    images: Sequence[ImageText],
    table_file: Path,
    settings: ParaphraseSettings,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> ParaphraseRun:
    """Write the table `Filename,Prompt,Paraphrase`; continues what an interrupted run left.

    What was not taken is listed, with its reason, in a file `*.rejected.jsonl` beside the table.

    Raises:
        DataError: If no prompt got any paraphrase.
        UsageError: If another process writes the same table.
    """
    table_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(table_file.parent, f".{table_file.name}.lock"):
        return paraphrase_rows(
            images,
            grammar_paraphrases,
            table_file,
            method=_method_name(settings),
            seed=seed,
            num=settings.per_prompt,
            on_progress=on_progress,
        )


def plan_of_paraphrases(
    images: Sequence[ImageText], table_file: Path, settings: ParaphraseSettings, *, seed: int
) -> ParaphrasePlan:
    """Return what `make_paraphrases` would do; nothing is written and no model is loaded."""
    return plan_paraphrases(
        images, table_file, method=_method_name(settings), seed=seed, num=settings.per_prompt
    )


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


def _method_name(settings: ParaphraseSettings) -> str:
    return f"{settings.method} 1"
