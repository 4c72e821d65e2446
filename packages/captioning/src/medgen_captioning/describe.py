"""Let a model describe every image of a data set: the Visual Symptom Generator (Guo et al. 2025, section 2.1).

The image and a request that names modality, class and visual features go to a vision-language model; its
caption is checked, drawn again if it fails, shortened if it is too long for the text encoder, and quarantined
with its reasons if nothing helps. All answers are kept by content, so a killed run continues where it was and a
changed request recomputes only the images it touches.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from medgen_data.atomic import write_jsonl_atomic
from medgen_data.captions import CaptionRow
from medgen_data.fingerprint import file_sha256
from medgen_data.image_folder import ImageDataset
from medgen_data.images import ImageError, decode_image, encode_png
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord

from medgen_captioning.asking import Asking, ConcurrentEngine, Engine, Failed, Settled
from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.checks import CountTokens, Demands, Verdict, judge
from medgen_captioning.config import CaptionConfig
from medgen_captioning.egress import check_egress
from medgen_captioning.finished import CaptionRun, reusable_rows, revision_of
from medgen_captioning.model_files import model_identity
from medgen_captioning.prompts import description_request, simple_caption, visual_features
from medgen_captioning.quarantine import Quarantined, quarantine_file_of
from medgen_captioning.requests import Draw, Question, Writer
from medgen_captioning.server import ServerError, ServerModel, server_writer
from medgen_captioning.tokens import token_counter


@dataclass(frozen=True)
class Access:
    """What a run may do, which is no matter of a recipe.

    Attributes:
        cache_file: Where answers are kept; None: `caption-cache.sqlite` beside the captions.
        api_key: Key of the server; None: none.
        allow_egress: Hosts besides this machine that images may be sent to.
    """

    cache_file: Path | None = None
    api_key: str | None = None
    allow_egress: Collection[str] = ()


@dataclass(frozen=True)
class CaptionPlan:
    """What a run would do.

    Attributes:
        num_records: Records selected.
        num_finished: Of these, captions in the captions file.
        num_settled: Of the rest, images whose answers are all in the cache.
        num_to_ask: Images that need at least one answer of the model.
        most_requests: Answers that this may take at most, if every draft but the last fails.
        problems: Records about which nothing can be asked.
    """

    num_records: int
    num_finished: int
    num_settled: int
    num_to_ask: int
    most_requests: int
    problems: tuple[Problem, ...]


def describe_dataset(
    dataset: ImageDataset,
    captions_file: Path,
    config: CaptionConfig,
    *,
    seed: int,
    access: Access = Access(),
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption a data set by a model, or go on where an interrupted run stopped.

    Raises:
        DataError: If `captions_file` holds captions of other settings, the model is not to be had, images would
            be sent to a host that is not allowed, or no image could be captioned.
    """
    with CaptionCache(_cache_file(captions_file, access)) as cache:
        run = _Description(dataset, captions_file, config, cache, access, seed)
        settled = []
        num_asked = 0
        total, done = len(dataset.records), len(run.finished)
        for each in run.asking.settle(run.questions()):
            num_asked += each.num_asked
            settled.append(run.outcome(each))
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        if on_progress is not None and done < total:
            on_progress(total, total)
        in_doubt = len(cache.open_requests())
    return _write(run, settled, captions_file, num_asked, in_doubt)


def plan_captions(
    dataset: ImageDataset,
    captions_file: Path,
    config: CaptionConfig,
    *,
    seed: int,
    access: Access = Access(),
) -> CaptionPlan:
    """Return what `describe_dataset` would ask, without asking it and without loading a model.

    Raises:
        DataError: As `describe_dataset`, as far as it can be told beforehand.
    """
    with CaptionCache(_cache_file(captions_file, access)) as cache:
        run = _Description(dataset, captions_file, config, cache, access, seed)
        is_open = [run.asking.is_open(question) for question in run.questions()]
        return CaptionPlan(
            num_records=len(dataset.records),
            num_finished=len(run.finished),
            num_settled=len(is_open) - sum(is_open),
            num_to_ask=sum(is_open),
            most_requests=sum(is_open) * (config.max_attempts if run.writer.draws else 1),
            problems=tuple(run.problems),
        )


class _Description:
    """One run: its settings resolved, its model not yet loaded."""

    def __init__(
        self,
        dataset: ImageDataset,
        captions_file: Path,
        config: CaptionConfig,
        cache: CaptionCache,
        access: Access,
        seed: int,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self.modality = config.modality or dataset.card.modality
        self.features = visual_features(self.modality, config.visual_features)
        self.problems: list[Problem] = []
        self.writer = _writer(config, cache)
        if config.server is not None:
            check_egress(config.server.base_url, access.allow_egress)
        self._cache = cache
        self._access = access
        self._count_tokens = _counter(config)
        self._shorten, shortener = _shortener(config, cache)
        self.revision = revision_of(dataset, config, self.modality, self.writer.identity + shortener)
        self.finished = reusable_rows(dataset, captions_file, config.method, self.revision, seed)
        self.asking = Asking(
            self._open_engine, self.writer, cache, self._judge, seed=seed, max_attempts=config.max_attempts
        )

    def questions(self) -> Iterator[Question]:
        """Yield a question for each record without a finished caption; notes the others as problems."""
        for record in self.dataset.records:
            if record.record_id in self.finished:
                continue
            question = self._question(record)
            if isinstance(question, Problem):
                self.problems.append(question)
            else:
                yield question

    def outcome(self, settled: Settled) -> "CaptionRow | Quarantined | Problem":
        """Return the row of a caption, or why there is none."""
        question = settled.question
        if settled.failure is not None:
            code, detail = settled.failure.code, settled.failure.detail
            return Problem(file=question.file_name, code=code, detail=detail)
        if settled.verdict is None:
            return Quarantined(question, settled.rejected)
        return CaptionRow(
            record_id=question.record_id,
            text=settled.verdict.text,
            method=self.config.method,
            model=self.writer.name,
            revision=self.revision,
            seed=self.seed,
            checks=settled.verdict.passed,
        )

    def _question(self, record: ImageRecord) -> Question | Problem:
        try:
            prompt = description_request(
                self.modality,
                record.label,
                max_words=self.config.max_words,
                features=self.features,
                template=self.config.request_template,
            )
            image_file = self.dataset.image_file(record)
            digest = file_sha256(image_file)
        except (ValueError, OSError) as error:
            field, code = ("file_name", "unreadable") if record.label else ("label", "no-category")
            return Problem(file=record.file_name, field=field, code=code, detail=str(error))
        opening = simple_caption(self.modality, record.label)
        return Question(record.record_id, record.file_name, image_file, digest, opening, prompt)

    def _judge(self, question: Question, text: str) -> Verdict:
        demands = Demands(
            opening=question.opening,
            max_words=self.config.max_words,
            features=self.features,
            max_tokens=self.config.token_budget.max_tokens if self.config.token_budget else None,
            count_tokens=self._count_tokens,
        )
        verdict = judge(text, demands)
        if self._shorten is None or not verdict.only_too_long:
            return verdict
        shorter = judge(self._shorten(verdict.text), demands)
        if shorter.accepted:
            return Verdict(shorter.text, (*shorter.passed, "simplified"), ())
        return Verdict(
            shorter.text, shorter.passed, tuple((name, f"simplified: {why}") for name, why in shorter.failed)
        )

    def _open_engine(self) -> Engine:
        if self.config.server is not None:
            server = ServerModel(
                self.config.server,
                self._cache,
                api_key=self._access.api_key,
                allow_egress=self._access.allow_egress,
            )
            return ConcurrentEngine(_asks(server), self.config.server.concurrency, server.close)
        assert self.config.vision_language is not None
        from medgen_captioning.vision_language import open_engine

        return open_engine(self.config.vision_language, self.writer, self._cache)


def _write(
    run: _Description,
    outcomes: list[CaptionRow | Quarantined | Problem],
    captions_file: Path,
    num_asked: int,
    num_in_doubt: int,
) -> CaptionRun:
    new = {row.record_id: row for row in outcomes if isinstance(row, CaptionRow)}
    quarantined = [each for each in outcomes if isinstance(each, Quarantined)]
    problems = [*run.problems, *(each for each in outcomes if isinstance(each, Problem))]
    problems += [each.problem() for each in quarantined]
    places = {record.file_name: place for place, record in enumerate(run.dataset.records)}
    problems.sort(key=lambda problem: places[problem.file])
    quarantine_file = quarantine_file_of(captions_file)
    if quarantined:
        quarantined.sort(key=lambda each: places[each.question.file_name])
        write_jsonl_atomic(quarantine_file, (each.row() for each in quarantined))
    else:
        quarantine_file.unlink(missing_ok=True)
    rows = {**new, **run.finished}
    ordered = [rows[record.record_id] for record in run.dataset.records if record.record_id in rows]
    if not ordered:
        raise DataError(f"none of {len(problems)} images could be captioned; the first: {problems[0]}")
    if new:
        write_jsonl_atomic(captions_file, (row.model_dump(mode="json") for row in ordered))
    return CaptionRun(
        num_written=len(new),
        num_reused=len(run.finished),
        problems=tuple(problems),
        num_asked=num_asked,
        num_in_doubt=num_in_doubt,
        quarantine_file=quarantine_file if quarantined else None,
    )


def _asks(server: ServerModel) -> Callable[[Draw], str | Failed]:
    def answer(item: Draw) -> str | Failed:
        question = item.question
        try:
            png = encode_png(decode_image(question.image_file))
            return server.ask(
                question.prompt, key=item.key, seed=item.seed, png=png, image_sha256=question.image_sha256
            )
        except ImageError as error:
            return Failed(error.code, str(error))
        except ServerError as error:
            return Failed(error.code, str(error), stops=error.stops)

    return answer


def _writer(config: CaptionConfig, cache: CaptionCache) -> Writer:
    if config.server is not None:
        return server_writer(config.server)
    model = config.vision_language
    if model is None:
        raise ValueError(f"method {config.method} asks no model; use caption_dataset")
    decoding: dict[str, object] = model.decoding.model_dump(mode="json")
    decoding |= {"dtype": model.dtype, "template": model.chat_template, "prefill": model.prefill_opening}
    return Writer(
        model.model,
        model_identity(model.model, model.revision, cache),
        decoding,
        draws=model.decoding.do_sample,
    )


def _counter(config: CaptionConfig) -> CountTokens | None:
    return token_counter(config.token_budget) if config.token_budget is not None else None


def _shortener(config: CaptionConfig, cache: CaptionCache) -> tuple[Callable[[str], str] | None, str]:
    """Return what shortens a caption, None if nothing does, and the identity of its model."""
    if config.simplify is None:
        return None, ""
    from medgen_captioning.simplify import Simplifier

    simplifier = Simplifier(config.simplify, cache)
    return simplifier.simplify, f" + {simplifier.writer.identity}"


def _cache_file(captions_file: Path, access: Access) -> Path:
    return access.cache_file or captions_file.with_name("caption-cache.sqlite")
