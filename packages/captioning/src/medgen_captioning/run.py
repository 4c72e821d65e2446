"""Caption a data set: in order, resumable, every caption checked.

The methods that ask a model are in `describe`; the others are here.

Rows are appended to a working file beside the target, one whole line per write, so a kill at any moment
leaves whole lines and at most one torn end, which the next run cuts off. When all records are done, the
finished captions replace the target in the order of the data set and the working file is deleted.

Rows of another revision or seed are never mixed in: a working file of other settings is started afresh;
finished captions of other settings are somebody's work and are refused.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from medgen_data.captions import CaptionRow
from medgen_data.image_folder import ImageDataset
from medgen_data.images import ImageError, decode_image
from medgen_data.problems import Problem
from medgen_data.records import ImageRecord

from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.caption_files import GivenTexts, read_given_texts
from medgen_captioning.checks import CountTokens, Demands
from medgen_captioning.config import CaptionConfig
from medgen_captioning.describe import Access, describe_dataset
from medgen_captioning.finished import CaptionRun, Target, revision_of
from medgen_captioning.journal import Journal
from medgen_captioning.measured import measured_caption
from medgen_captioning.planning import CaptionPlan, plan_captions
from medgen_captioning.prompts import simple_caption
from medgen_captioning.shortening import judge_shortened, shortener_of
from medgen_captioning.tokens import token_counter

__all__ = ["Access", "CaptionConfig", "CaptionRun", "caption_dataset", "check_caption", "plan_dataset"]


def caption_dataset(
    dataset: ImageDataset,
    captions_file: Path,
    config: CaptionConfig,
    *,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    access: Access | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption every record of a data set, or go on where an interrupted run stopped.

    Args:
        dataset: Data set, or a selection of one.
        captions_file: Target; written whole, once, at the end.
        config: How to caption.
        seed: Recorded in each row; models draw their words by it.
        shard: (i, n), i from 0: caption only the i-th of n parts, each to its own file; who is done last puts
            them together.
        access: What a model may be reached by, and where its answers are kept.
        on_progress: Called with the numbers of records done and in all, after each record.

    Raises:
        DataError: If `captions_file` holds captions of other settings or of records that are not in
            `dataset`, or no image could be captioned.
    """
    target, access = Target(dataset, captions_file, shard), access or Access()
    if config.method in ("server", "vision-language"):
        return describe_dataset(target, config, seed=seed, access=access, on_progress=on_progress)
    with ExitStack() as open_files:
        writing = _prepare(target, config, seed, access, open_files)
        return _write_all(target, writing, on_progress)


def plan_dataset(
    dataset: ImageDataset,
    captions_file: Path,
    config: CaptionConfig,
    *,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    access: Access | None = None,
) -> CaptionPlan:
    """Return what `caption_dataset` would do and what it may cost; nothing is asked, no caption is written.

    Raises:
        DataError: As `caption_dataset`, as far as it can be told beforehand.
    """
    target, access = Target(dataset, captions_file, shard), access or Access()
    if config.method in ("server", "vision-language"):
        return plan_captions(target, config, seed=seed, access=access)
    with ExitStack() as open_files:
        writing = _prepare(target, config, seed, access, open_files)
    finished = target.finished(config.method, writing.revision, seed)
    journal = Journal(_working_file(target), writing.revision, seed, reads_only=True)
    num_finished = len(finished.keys() | journal.rows.keys())
    num_records = len(target.mine.records)
    return CaptionPlan(num_records, num_finished, num_settled=num_records - num_finished)


def check_caption(text: str, *, opening: str, max_words: int) -> tuple[str, ...]:
    """Return the names of the checks that a caption passed: all of them.

    Args:
        text: The caption.
        opening: What it must begin with.
        max_words: Most words it may have.

    Raises:
        ValueError: If a check fails; the message says which.
    """
    if not text.startswith(opening):
        raise ValueError(f"caption must begin with {opening!r}, got {text[: len(opening)]!r}")
    if len(text.split()) > max_words:
        raise ValueError(
            f"caption must have at most {max_words} words, got {len(text.split())}; shorten the label"
        )
    return ("opening", "max-words")


@dataclass(frozen=True)
class _Writing:
    """Everything that the caption of a record is made from."""

    dataset: ImageDataset
    config: CaptionConfig
    modality: str
    revision: str
    seed: int
    given: GivenTexts | None
    count_tokens: CountTokens | None
    shorten: Callable[[str], str] | None


def _prepare(
    target: Target, config: CaptionConfig, seed: int, access: Access, open_files: ExitStack
) -> _Writing:
    dataset, writer = target.dataset, ""
    modality = config.modality or dataset.card.modality
    given = read_given_texts(config.file) if config.file is not None else None
    if given is not None:
        writer = f"file {given.sha256}"
    shorten = None
    if config.simplify is not None:
        cache = open_files.enter_context(CaptionCache(access.cache_of(target.captions_file)))
        shorten, shortener = shortener_of(config, cache, device=access.device)
        writer += shortener
    return _Writing(
        dataset=dataset,
        config=config,
        modality=modality,
        revision=revision_of(dataset, config, modality, writer),
        seed=seed,
        given=given,
        count_tokens=token_counter(config.token_budget) if config.token_budget is not None else None,
        shorten=shorten,
    )


def _write_all(
    target: Target, writing: _Writing, on_progress: Callable[[int, int], None] | None
) -> CaptionRun:
    revision, seed = writing.revision, writing.seed
    records = target.mine.records
    finished = target.finished(writing.config.method, revision, seed)
    journal = Journal(_working_file(target), revision, seed)
    rows = {**journal.rows, **finished}
    num_reused = sum(record.record_id in rows for record in records)
    problems = list(writing.given.problems) if writing.given is not None and target.shard[0] == 0 else []
    with journal:
        for number, record in enumerate(records, start=1):
            if record.record_id not in rows:
                outcome = _caption_record(writing, record)
                if isinstance(outcome, Problem):
                    problems.append(outcome)
                else:
                    journal.append(outcome)
                    rows[record.record_id] = outcome
            if on_progress is not None:
                on_progress(number, len(records))
    num_done = sum(record.record_id in rows for record in records)
    run = target.complete(rows, CaptionRun(num_done - num_reused, num_reused, tuple(problems)))
    journal.remove()
    return run


def _working_file(target: Target) -> Path:
    return target.file.with_name(f".{target.file.name}.working")


def _caption_record(writing: _Writing, record: ImageRecord) -> CaptionRow | Problem:
    try:
        text, checks = _text_and_checks(writing, record)
    except ImageError as error:
        return Problem(file=record.file_name, code=error.code, detail=str(error))
    except ValueError as error:
        field = "text" if writing.given is not None else "label"
        return Problem(file=record.file_name, field=field, code="bad-caption", detail=str(error))
    return CaptionRow(
        record_id=record.record_id,
        text=text,
        method=writing.config.method,
        revision=writing.revision,
        seed=writing.seed,
        checks=checks,
    )


def _text_and_checks(writing: _Writing, record: ImageRecord) -> tuple[str, tuple[str, ...]]:
    config = writing.config
    if config.method == "empty":
        return "", ()
    if writing.given is not None:
        return _given_text(writing, writing.given.text_of(record))
    text = opening = simple_caption(writing.modality, record.label)
    if config.method == "measured":
        image = decode_image(writing.dataset.image_file(record))
        text = measured_caption(image, writing.modality, record.label, max_words=config.max_words)
    checks = check_caption(text, opening=opening, max_words=config.max_words)
    if writing.count_tokens is None or config.token_budget is None:
        return text, checks
    num_tokens, most = writing.count_tokens(text), config.token_budget.max_tokens
    if num_tokens > most:
        raise ValueError(f"caption must have at most {most} tokens, got {num_tokens}; lower max_words")
    return text, (*checks, "max-tokens")


def _given_text(writing: _Writing, text: str) -> tuple[str, tuple[str, ...]]:
    """Check a text of somebody else: its length and its form, not how it begins."""
    config = writing.config
    demands = Demands(
        opening=None,
        max_words=config.max_words,
        max_tokens=config.token_budget.max_tokens if config.token_budget is not None else None,
        count_tokens=writing.count_tokens,
    )
    verdict = judge_shortened(text, demands, writing.shorten)
    if not verdict.accepted:
        reasons = "; ".join(f"{name}: {why}" for name, why in verdict.failed)
        raise ValueError(f"the text {reasons}")
    return verdict.text, verdict.passed
