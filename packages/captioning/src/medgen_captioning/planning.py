"""What a captioning run would ask and cost, told without asking."""

from dataclasses import dataclass

from medgen_data.problems import Problem

from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.config import CaptionConfig
from medgen_captioning.describe import Access, Description
from medgen_captioning.finished import Target
from medgen_captioning.server import cost_of


@dataclass(frozen=True)
class CaptionPlan:
    """What a run would do, and what it may cost at most.

    Attributes:
        num_records: Records of this shard.
        num_finished: Of these, captions that are written already.
        num_settled: Of the rest, images that need no answer, or whose answers are all in the cache.
        num_to_ask: Images that need an answer of the model, or may need one if T5 cannot shorten the last.
        num_to_simplify: Captions in the cache that T5 has still to shorten.
        most_answers: Answers that this may take, if every draft but the last fails.
        most_requests: Requests that this may take, if every answer needs all tries; 0 without a server.
        most_prompt_tokens: Of these requests, at the size of the largest prompt so far; None: none was seen yet.
        most_answer_tokens: Of these requests.
        most_cost: In the currency of the prices; None: a price or the size of a prompt is not known.
        problems: Records about which nothing can be asked.
    """

    num_records: int
    num_finished: int
    num_settled: int
    num_to_ask: int = 0
    num_to_simplify: int = 0
    most_answers: int = 0
    most_requests: int = 0
    most_prompt_tokens: int | None = 0
    most_answer_tokens: int = 0
    most_cost: float | None = None
    problems: tuple[Problem, ...] = ()


def plan_captions(target: Target, config: CaptionConfig, *, seed: int, access: Access) -> CaptionPlan:
    """Return what `describe_dataset` would ask, without asking it and without loading a model.

    Raises:
        DataError: As `describe_dataset`, as far as it can be told beforehand.
    """
    with CaptionCache(access.cache_of(target.captions_file)) as cache:
        run = Description(target, config, cache, access, seed, plans_only=True)
        left = [run.asking.attempts_left(question) for question in run.questions()]
        most_answers, server = sum(left), config.server
        most_requests = most_answers * server.max_tries if server is not None else 0
        prompt = cache.spending(run.writer.identity).largest_prompt
        prompt_tokens = most_requests * prompt if prompt or not most_requests else None
        answer_tokens = most_requests * server.max_new_tokens if server is not None else 0
        cost = None
        if server is not None and prompt_tokens is not None:
            cost = cost_of(server, prompt_tokens, answer_tokens)
        return CaptionPlan(
            num_records=len(target.mine.records),
            num_finished=len(run.finished),
            num_settled=left.count(0),
            num_to_ask=len(left) - left.count(0),
            num_to_simplify=run.num_to_simplify,
            most_answers=most_answers,
            most_requests=most_requests,
            most_prompt_tokens=prompt_tokens,
            most_answer_tokens=answer_tokens,
            most_cost=cost,
            problems=tuple(run.problems),
        )
