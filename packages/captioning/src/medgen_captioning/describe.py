"""Let a model describe every image of a data set: the Visual Symptom Generator (Guo et al. 2025, section 2.1).

The image and a request that names modality, class and visual features go to a vision-language model; its
caption is checked, drawn again if it fails, shortened if it is too long for the text encoder, and quarantined
with its reasons if nothing helps. All answers are kept by content, so a killed run continues where it was and a
changed request recomputes only the images it touches.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from medgen_data.atomic import write_jsonl_atomic
from medgen_data.captions import CaptionRow
from medgen_data.fingerprint import file_sha256
from medgen_data.images import ImageError, decode_image, encode_png
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord

from medgen_captioning.asking import Asking, ConcurrentEngine, Engine, Failed, Settled
from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.checks import Demands, Verdict
from medgen_captioning.config import CaptionConfig
from medgen_captioning.egress import check_egress
from medgen_captioning.finished import CaptionRun, Target, revision_of
from medgen_captioning.model_files import model_identity
from medgen_captioning.prompts import description_request, simple_caption, visual_features
from medgen_captioning.quarantine import Quarantined, quarantine_file_of
from medgen_captioning.requests import Draw, Question, Writer
from medgen_captioning.server import ServerError, ServerModel, server_writer
from medgen_captioning.shortening import judge_shortened, shortener_of
from medgen_captioning.tokens import token_counter


@dataclass(frozen=True)
class Access:
    """What a run may do, which is no matter of a recipe.

    Attributes:
        cache_file: Where answers are kept; None: `caption-cache.sqlite` beside the captions.
        api_key: Key of the server; None: none.
        allow_egress: Hosts besides this machine that images may be sent to.
        device: Where a model of this process runs, instead of where the recipe says.
    """

    cache_file: Path | None = None
    api_key: str | None = None
    allow_egress: Collection[str] = ()
    device: str | None = None

    def cache_of(self, captions_file: Path) -> Path:
        """Return where the answers for a captions file are kept."""
        return self.cache_file or captions_file.with_name("caption-cache.sqlite")


def describe_dataset(
    target: Target,
    config: CaptionConfig,
    *,
    seed: int,
    access: Access,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption a data set by a model, or go on where an interrupted run stopped.

    Raises:
        DataError: If the captions file holds captions of other settings, the model is not to be had, images would
            be sent to a host that is not allowed, or no image could be captioned.
    """
    with CaptionCache(access.cache_of(target.captions_file)) as cache:
        run = Description(target, config, cache, access, seed)
        # Before anything is asked here: what is open now was left by a kill, or is another shard's.
        in_doubt = len(cache.open_requests())
        outcomes = []
        num_asked = num_unanswered = 0
        total, done = len(target.mine.records), len(run.finished)
        # Closed before the cache is, whatever happens: answers in flight are still stored.
        with closing(run.asking.settle(run.questions())) as settling:
            for each in settling:
                num_asked += each.num_asked
                num_unanswered += each.failure is not None and not each.failure.of_image
                outcomes.append(run.outcome(each))
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
        if on_progress is not None and done < total:
            on_progress(total, total)
    return replace(_write(run, outcomes, num_asked, in_doubt), num_unanswered=num_unanswered)


class Description:
    """One run: its settings resolved, its model not yet loaded."""

    def __init__(
        self,
        target: Target,
        config: CaptionConfig,
        cache: CaptionCache,
        access: Access,
        seed: int,
        *,
        plans_only: bool = False,
    ) -> None:
        self.target = target
        self.config = config
        self.seed = seed
        self.modality = config.modality or target.dataset.card.modality
        try:
            self.features = visual_features(self.modality, config.visual_features)
        except ValueError as error:
            raise DataError(f"visual_features: {error}") from error
        self.num_to_simplify = 0
        self.problems: list[Problem] = []
        self.writer = _writer(config, cache)
        if config.server is not None:
            check_egress(config.server.base_url, access.allow_egress)
        self._cache = cache
        self._access = access
        self._count_tokens = token_counter(config.token_budget) if config.token_budget is not None else None
        on_device = access.device or (config.vision_language.device if config.vision_language else None)
        self._shorten, shortener = shortener_of(
            config, cache, device=on_device, if_new=self._note_long if plans_only else None
        )
        self.revision = revision_of(target.dataset, config, self.modality, self.writer.identity + shortener)
        self.finished = target.finished(config.method, self.revision, seed)
        self.asking = Asking(
            self._open_engine, self.writer, cache, self._judge, seed=seed, max_attempts=config.max_attempts
        )

    def questions(self) -> Iterator[Question]:
        """Yield a question for each record without a finished caption; notes the others as problems."""
        for record in self.target.mine.records:
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
        except ValueError as error:
            return Problem(file=record.file_name, field="label", code="no-category", detail=str(error))
        image_file = self.target.dataset.image_file(record)
        try:
            digest = file_sha256(image_file)
        except OSError as error:
            return Problem(file=record.file_name, code="unreadable", detail=f"{image_file}: {error.strerror}")
        opening = simple_caption(self.modality, record.label)
        return Question(record.record_id, record.file_name, image_file, digest, opening, prompt)

    def _note_long(self, text: str) -> str:
        """Count a caption that T5 would shorten, and leave it as it is."""
        self.num_to_simplify += 1
        return text

    def _judge(self, question: Question, text: str) -> Verdict:
        demands = Demands(
            opening=question.opening,
            max_words=self.config.max_words,
            features=self.features,
            max_tokens=self.config.token_budget.max_tokens if self.config.token_budget else None,
            count_tokens=self._count_tokens,
            whole=True,
        )
        return judge_shortened(text, demands, self._shorten)

    def _open_engine(self) -> Engine:
        if self.config.server is not None:
            server = ServerModel(
                self.config.server,
                self._cache,
                api_key=self._access.api_key,
                allow_egress=self._access.allow_egress,
            )
            return ConcurrentEngine(_asks(server), self.config.server.concurrency, server)
        model = self.config.vision_language
        assert model is not None
        try:
            from medgen_captioning.vision_language import open_engine
        except ImportError as error:
            raise DataError(
                f"method vision-language needs a library that is missing ({error}); install "
                "medgen-captioning[local]"
            ) from error
        if self._access.device is not None:
            model = model.model_copy(update={"device": self._access.device})
        return open_engine(model, self.writer, self._cache)


def _write(
    run: Description,
    outcomes: list[CaptionRow | Quarantined | Problem],
    num_asked: int,
    num_in_doubt: int,
) -> CaptionRun:
    target = run.target
    new = {row.record_id: row for row in outcomes if isinstance(row, CaptionRow)}
    quarantined = [each for each in outcomes if isinstance(each, Quarantined)]
    problems = [*run.problems, *(each for each in outcomes if isinstance(each, Problem))]
    problems += [each.problem() for each in quarantined]
    places = {record.file_name: place for place, record in enumerate(target.dataset.records)}
    problems.sort(key=lambda problem: places[problem.file])
    quarantine_file = quarantine_file_of(target.file)
    if quarantined:
        quarantined.sort(key=lambda each: places[each.question.file_name])
        write_jsonl_atomic(quarantine_file, (each.row() for each in quarantined))
    else:
        quarantine_file.unlink(missing_ok=True)
    done = CaptionRun(
        num_written=len(new),
        num_reused=len(run.finished),
        problems=tuple(problems),
        num_asked=num_asked,
        num_in_doubt=num_in_doubt,
        quarantine_file=quarantine_file if quarantined else None,
    )
    return target.complete({**new, **run.finished}, done)


def _asks(server: ServerModel) -> Callable[[Draw], str | Failed]:
    def answer(item: Draw) -> str | Failed:
        question = item.question
        try:
            png = encode_png(decode_image(question.image_file))
            return server.ask(
                question.prompt, key=item.key, seed=item.seed, png=png, image_sha256=question.image_sha256
            )
        except ImageError as error:
            return Failed(error.code, str(error), of_image=True)
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
