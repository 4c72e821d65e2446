"""Paraphrases by a language model, in this process or behind an endpoint (Chaichuk et al. 2025, section 4.3).

The model is asked for a JSON object with a list of sentences. What it writes are candidates: each is judged by its
facts before it counts, and a prompt that has too few is asked about again with another seed. All answers are kept
by content, so a killed run goes on where it was and pays for nothing twice.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from string import Formatter
from typing import Annotated, Self

from medgen_data.problems import DataError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medgen_captioning.asking import Asking, ConcurrentEngine, Engine, Failed
from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.checks import Verdict
from medgen_captioning.config import Decoding, Dtype, ServerConfig
from medgen_captioning.egress import check_egress
from medgen_captioning.model_files import model_identity
from medgen_captioning.paraphrasing.judge import judge
from medgen_captioning.requests import Draw, Question, Writer
from medgen_captioning.server import ServerError, ServerModel, server_writer

SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"paraphrases": {"type": "array", "items": {"type": "string"}}},
    "required": ["paraphrases"],
    "additionalProperties": False,
}
# What a model of this process is made to begin with, so that it goes on in JSON.
JSON_OPENING = '{"paraphrases": ["'
INSTRUCTION = (
    "Write {num} paraphrases of the sentence below, which asks for or describes a medical image. Each is one "
    "English sentence in other words that states exactly the same facts: the same findings, negations, counts, "
    "sizes, colors, positions, sides, instruments, procedures and types, nothing more and nothing less. Answer "
    'with a JSON object {{"paraphrases": [...]}} and no other words.\nSentence: {prompt}'
)


def check_instruction(template: str) -> str:
    """Return an instruction unchanged, or refuse it.

    Raises:
        ValueError: If it does not hold the placeholder of the prompt, or others than that and the number.
    """
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"instruction {template!r}: {error}; write a plain brace twice") from None
    if "prompt" not in names or names - {"num", "prompt"}:
        raise ValueError(
            f"instruction must hold {{prompt}} and may hold {{num}}, no other placeholder; got {sorted(names)}"
        )
    return template


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextModelConfig(_Section):
    """A language model in this process.

    Attributes:
        model: Hub name or folder of a causal language model.
        revision: Branch, tag or commit of the hub repository; None: its main branch.
        dtype: Of the weights.
        device: `auto` is the first GPU, or the CPU where there is none.
        batch_size: Prompts answered at once.
        decoding: How words are drawn.
    """

    model: str
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    device: str = "auto"
    batch_size: int = Field(default=8, ge=1)
    decoding: Decoding = Decoding(max_new_tokens=400)


class LanguageModelConfig(_Section):
    """Who writes paraphrases, and how it is asked.

    Attributes:
        text_model: A model in this process.
        server: A model behind an endpoint, instead.
        instruction: What it is asked, with placeholders for the prompt and the number.
        num_per_answer: Paraphrases asked for at once.
        max_attempts: Answers per prompt until enough paraphrases are accepted.
    """

    text_model: TextModelConfig | None = None
    server: ServerConfig | None = None
    instruction: Annotated[str, AfterValidator(check_instruction)] = INSTRUCTION
    num_per_answer: int = Field(default=5, ge=1, le=100)
    max_attempts: int = Field(default=4, ge=1, le=100)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text_model is None) == (self.server is None):
            raise ValueError("give text_model or server, one of the two")
        return self


class LanguageModelParaphraser:
    """Writes candidates for prompts; what each prompt gets depends on its text and the seed alone.

    Attributes:
        num_asked: Answers that were not in the cache.
        failures: Prompts without a single candidate, and why.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        cache: CaptionCache,
        *,
        api_key: str | None = None,
        allow_egress: Collection[str] = (),
        accept: Callable[[str, str], bool] = lambda prompt, text: judge(prompt, text).accepted,
        on_prompt: Callable[[int, int], None] | None = None,
    ) -> None:
        """Prepare to ask; no model is loaded and nothing sent yet.

        Args:
            config: Who writes.
            cache: Where answers are kept.
            api_key: Key of the server; None: none.
            allow_egress: Hosts besides this machine that prompts may be sent to.
            accept: Says whether a candidate counts towards the number wanted.
            on_prompt: Called with the numbers of prompts done and in all.

        Raises:
            DataError: If the model is not to be had, or the host is not allowed.
        """
        self.config = config
        self.writer = _writer(config, cache)
        self.num_asked = 0
        self.failures: dict[str, str] = {}
        self._cache = cache
        self._api_key = api_key
        self._allow_egress = allow_egress
        self._accept = accept
        self._on_prompt = on_prompt
        self._local: Engine | None = None
        if config.server is not None:
            check_egress(config.server.base_url, allow_egress)

    def __call__(self, prompts: Sequence[str], num: int, seed: int) -> list[list[str]]:
        """Return candidates for each prompt, accepted and not, in the order they were written.

        Args:
            prompts: The sentences.
            num: Accepted candidates wanted of each.
            seed: Of the words drawn.
        """
        gathering = _Gathering(prompts, num, self._accept)
        with closing(self._asking(gathering, seed).settle(iter(self._questions(prompts)))) as settling:
            for done, settled in enumerate(settling, start=1):
                self.num_asked += settled.num_asked
                place = int(settled.question.record_id)
                if not gathering.written[place]:
                    failure = settled.failure.detail if settled.failure is not None else ""
                    self.failures[prompts[place]] = failure or gathering.reasons.get(
                        place, "no sentence in it"
                    )
                if self._on_prompt is not None:
                    self._on_prompt(done, len(prompts))
        return [list(candidates) for candidates in gathering.written]

    def attempts_left(self, prompts: Sequence[str], num: int, seed: int) -> int:
        """Return how many answers a call may need at most that are not in the cache; nothing is asked."""
        asking = self._asking(_Gathering(prompts, num, self._accept), seed)
        return sum(asking.attempts_left(question) for question in self._questions(prompts))

    def _asking(self, gathering: "_Gathering", seed: int) -> Asking:
        most = self.config.max_attempts
        return Asking(
            self._open_engine, self.writer, self._cache, gathering.take, seed=seed, max_attempts=most
        )

    def _questions(self, prompts: Sequence[str]) -> list[Question]:
        template, num = self.config.instruction, self.config.num_per_answer
        return [
            Question(str(place), prompt, Path(), "", "", template.format(prompt=prompt, num=num))
            for place, prompt in enumerate(prompts)
        ]

    def _open_engine(self) -> Engine:
        if self.config.server is not None:
            server = ServerModel(
                self.config.server, self._cache, api_key=self._api_key, allow_egress=self._allow_egress
            )
            return ConcurrentEngine(_asks(server), self.config.server.concurrency, server)
        assert self.config.text_model is not None
        if self._local is not None:
            return self._local
        try:
            from medgen_captioning.text_model import open_text_engine
        except ImportError as error:
            raise DataError(
                f"a language model in this process needs a library that is missing ({error}); install "
                "medgen-captioning[local]"
            ) from error
        # Its weights are read once, however often this is called.
        self._local = open_text_engine(self.config.text_model, self.writer, self._cache, JSON_OPENING)
        return self._local


class _Gathering:
    """Candidates so far, attempt by attempt."""

    def __init__(self, prompts: Sequence[str], num: int, accept: Callable[[str, str], bool]) -> None:
        self.written: list[dict[str, None]] = [{} for _ in prompts]
        self.reasons: dict[int, str] = {}
        self._prompts = prompts
        self._num = num
        self._accept = accept

    def take(self, question: Question, text: str) -> Verdict:
        """Take an answer, and say whether it was the last one needed."""
        place = int(question.record_id)
        candidates = self.written[place]
        try:
            candidates |= dict.fromkeys(parse_paraphrases(text))
        except ValueError as error:
            self.reasons[place] = str(error)
        enough = sum(self._accept(self._prompts[place], candidate) for candidate in candidates) >= self._num
        return Verdict(text, (), () if enough else (("too-few", "another answer is needed"),))


def parse_paraphrases(text: str) -> list[str]:
    """Return the sentences of an answer: a JSON object of the schema, perhaps with words around it.

    >>> parse_paraphrases('Sure: {"paraphrases": [" No polyps. ", ""]}')
    ['No polyps.']

    Raises:
        ValueError: If there is no such object.
    """
    start, end = text.find("{"), text.rfind("}") + 1
    try:
        value = json.loads(text[start:end]) if 0 <= start < end else None
    except (json.JSONDecodeError, RecursionError):
        value = None
    sentences = value.get("paraphrases") if isinstance(value, dict) else None
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise ValueError(
            f'the answer must be a JSON object {{"paraphrases": [sentences]}}, got {text[:80]!r}'
        )
    stripped = [" ".join(sentence.split()) for sentence in sentences]
    return [sentence for sentence in stripped if sentence]


def _asks(server: ServerModel) -> Callable[[Draw], str | Failed]:
    def answer(item: Draw) -> str | Failed:
        try:
            return server.ask(item.question.prompt, key=item.key, seed=item.seed, schema=SCHEMA)
        except ServerError as error:
            return Failed(error.code, str(error), stops=error.stops)

    return answer


def _writer(config: LanguageModelConfig, cache: CaptionCache) -> Writer:
    if config.server is not None:
        of_server = server_writer(config.server)
        decoding = {**of_server.decoding, "schema": SCHEMA}
        return Writer(of_server.name, of_server.identity, decoding, draws=of_server.draws)
    model = config.text_model
    assert model is not None
    decoding = {**model.decoding.model_dump(mode="json"), "dtype": model.dtype, "opening": JSON_OPENING}
    identity = model_identity(model.model, model.revision, cache)
    return Writer(model.model, identity, decoding, draws=model.decoding.do_sample)
