"""Put questions to a model until every image has a caption that passes, or is given up with its reasons.

Answers that are in the cache are never asked for again. Two images of one content share their answer. A caption
that fails is drawn again, before new images are begun, with the seed of the next attempt.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.checks import Verdict
from medgen_captioning.requests import Draw, Question, Writer, draw

Judge = Callable[[Question, str], Verdict]


@dataclass(frozen=True)
class Failed:
    """No answer came.

    Attributes:
        stops: Whether asking on is pointless; what is in the cache is still used.
        of_image: Whether the image is to blame, not who was asked.
    """

    code: str
    detail: str
    stops: bool = False
    of_image: bool = False


@dataclass(frozen=True)
class Settled:
    """What became of one question.

    Attributes:
        verdict: The accepted caption; None if there is none.
        rejected: Drafts that failed a check, in the order of attempts, with their seeds.
        failure: Why there was no answer; None if all attempts were answered.
        num_asked: Answers that were not in the cache.
    """

    question: Question
    verdict: Verdict | None
    rejected: tuple[tuple[int, Verdict], ...] = ()
    failure: Failed | None = None
    num_asked: int = 0


class Engine(Protocol):
    """Something that answers draws, a few at a time, and stores the answers in the cache."""

    def room(self) -> int:
        """Return how many more draws it takes now."""
        ...

    def put(self, item: Draw) -> None:
        """Take a draw."""
        ...

    def take(self) -> list[tuple[Draw, str | Failed]]:
        """Wait for some of the draws it has, and return them with their answers; none if it has none."""
        ...

    def close(self) -> None:
        """Let go of threads and connections."""
        ...


@dataclass
class _Open:
    """A question without an accepted caption yet."""

    question: Question
    attempt: int = 0
    rejected: list[tuple[int, Verdict]] = field(default_factory=list)
    num_asked: int = 0


class Asking:
    """One run over many questions."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        writer: Writer,
        cache: CaptionCache,
        judge: Judge,
        *,
        seed: int,
        max_attempts: int,
    ) -> None:
        """Prepare a run.

        Args:
            engine: Opens the model; called when the first answer is not in the cache.
            writer: Who answers.
            cache: Where answers are kept.
            judge: Checks an answer.
            seed: Of the run.
            max_attempts: Draws per image; a writer that draws nothing at random has one.
        """
        self._open_engine = engine
        self._engine: Engine | None = None
        self._writer = writer
        self._cache = cache
        self._judge = judge
        self._seed = seed
        self._max_attempts = max_attempts if writer.draws else 1
        self._again: deque[_Open] = deque()
        self._waiting: dict[str, list[_Open]] = {}
        self._stopped: Failed | None = None

    def settle(self, questions: Iterator[Question]) -> Generator[Settled, None, None]:
        """Yield every question as it is settled, in no particular order; close it to stop early."""
        try:
            while True:
                exhausted = yield from self._fill(questions)
                if not self._waiting:
                    if exhausted and not self._again:
                        return
                    continue
                assert self._engine is not None
                for item, outcome in self._engine.take():
                    yield from self._receive(item, outcome)
        finally:
            if self._engine is not None:
                self._engine.close()

    def attempts_left(self, question: Question) -> int:
        """Return how many answers a question may still need that are not in the cache; nothing is asked."""
        state = _Open(question)
        while state.attempt < self._max_attempts:
            item = draw(self._writer, question, state.attempt, seed=self._seed)
            text = self._cache.text(item.key)
            if text is None:
                return self._max_attempts - state.attempt
            if self._consider(state, item.seed, text):
                return 0
        return 0

    def _fill(self, questions: Iterator[Question]) -> Generator[Settled, None, bool]:
        """Begin questions while the engine has room; return whether there are no more of them."""
        while self._engine is None or self._engine.room() > 0:
            if self._again:
                state = self._again.popleft()
            else:
                question = next(questions, None)
                if question is None:
                    return True
                state = _Open(question)
            settled = self._advance(state)
            if settled is not None:
                yield settled
        return False

    def _advance(self, state: _Open) -> Settled | None:
        """Go through attempts that are in the cache; put the first that is not to the engine."""
        while state.attempt < self._max_attempts:
            item = draw(self._writer, state.question, state.attempt, seed=self._seed)
            text = self._cache.text(item.key)
            if text is None:
                if self._stopped is not None:
                    return self._give_up(state, self._stopped)
                self._ask(item, state)
                return None
            if accepted := self._consider(state, item.seed, text):
                return accepted
        return self._give_up(state, None)

    def _ask(self, item: Draw, state: _Open) -> None:
        if item.key in self._waiting:
            self._waiting[item.key].append(state)
            return
        if self._engine is None:
            self._engine = self._open_engine()
        self._waiting[item.key] = [state]
        self._engine.put(item)

    def _receive(self, item: Draw, outcome: str | Failed) -> Iterator[Settled]:
        states = self._waiting.pop(item.key)
        if isinstance(outcome, Failed) and outcome.stops:
            self._stopped = outcome
        # Only one of them was asked about; the others share the answer.
        states[0].num_asked += isinstance(outcome, str)
        for state in states:
            if isinstance(outcome, Failed):
                yield self._give_up(state, outcome)
            elif accepted := self._consider(state, item.seed, outcome):
                yield accepted
            else:
                self._again.append(state)

    def _consider(self, state: _Open, seed: int, text: str) -> Settled | None:
        verdict = self._judge(state.question, text)
        if verdict.accepted:
            return Settled(state.question, verdict, tuple(state.rejected), None, state.num_asked)
        state.rejected.append((seed, verdict))
        state.attempt += 1
        return None

    def _give_up(self, state: _Open, failure: Failed | None) -> Settled:
        return Settled(state.question, None, tuple(state.rejected), failure, state.num_asked)


class Connection(Protocol):
    """What a concurrent engine answers through."""

    def stop(self) -> None:
        """Begin no further request; what is in flight may end."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class ConcurrentEngine:
    """Answers draws one by one in several threads: for servers."""

    def __init__(
        self, answer: Callable[[Draw], str | Failed], num_threads: int, connection: Connection
    ) -> None:
        self._answer = answer
        self._executor = ThreadPoolExecutor(num_threads)
        self._num_threads = num_threads
        self._futures: dict[Future[str | Failed], Draw] = {}
        self._connection = connection

    def room(self) -> int:
        """Return how many more draws it takes now."""
        return self._num_threads - len(self._futures)

    def put(self, item: Draw) -> None:
        """Take a draw."""
        self._futures[self._executor.submit(self._answer, item)] = item

    def take(self) -> list[tuple[Draw, str | Failed]]:
        """Wait for at least one of the draws, and return what is done."""
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        return [(self._futures.pop(future), future.result()) for future in done]

    def close(self) -> None:
        """Wait for what is in flight, which is paid for and stored, then close."""
        self._connection.stop()
        self._executor.shutdown(cancel_futures=True)
        self._connection.close()
