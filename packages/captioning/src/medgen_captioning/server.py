"""Ask a model behind an OpenAI-compatible endpoint: bounded, patient, and only where it is allowed to.

Images leave the machine only for the one host that was allowed by name; redirects are not followed, so no
server can pass an image on. Images are sent as PNG made from the pixels: what a file says about a patient or a
device besides its pixels stays here.
"""

import random
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medgen_data.problems import DataError

from medgen_captioning.caption_cache import Answer, CaptionCache, Spending, Usage
from medgen_captioning.chat_protocol import RequestError, failure_of_status, request_body, text_and_usage
from medgen_captioning.config import ServerConfig
from medgen_captioning.egress import check_egress, is_loopback
from medgen_captioning.requests import Writer

# So many images given up in a row, each after all its tries, mean that the server is down.
_MOST_IN_A_ROW = 3


class ServerError(RuntimeError):
    """No answer.

    Attributes:
        code: Short name of the reason.
        stops: Whether asking about further images is pointless or not allowed.
    """

    def __init__(self, code: str, detail: str, *, stops: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.stops = stops


def server_writer(config: ServerConfig) -> Writer:
    """Return what the texts of a server depend on, as far as a server can tell."""
    decoding = config.model_dump(mode="json", include={"temperature", "top_p", "top_k", "max_new_tokens"})
    identity = f"server {config.base_url.rstrip('/')} {config.model} {config.revision}".rstrip()
    return Writer(config.model, identity, decoding, draws=config.temperature != 0)


class ServerModel:
    """An endpoint, with its limits. Safe to share between threads."""

    def __init__(
        self,
        config: ServerConfig,
        cache: CaptionCache,
        *,
        api_key: str | None,
        allow_egress: Collection[str] = (),
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Raises:
            DataError: If the host is not allowed, a key is missing, or the client is not installed.
        """
        self.config = config
        self.writer = server_writer(config)
        self._cache = cache
        self._host = check_egress(config.base_url, allow_egress)
        if api_key is None and not is_loopback(self._host):
            raise DataError(
                f"{config.base_url} needs a key, but the environment variable {config.api_key_env} is not set"
            )
        self._client = _new_client(config, api_key or "none", self._host)
        self._lock = threading.Lock()
        self._counts_tokens = config.max_total_tokens is not None or config.max_cost is not None
        self._limited = self._counts_tokens or config.max_requests is not None
        self._first = threading.Lock()
        self._prompt_known = (
            not self._counts_tokens or cache.spending(self.writer.identity).largest_prompt > 0
        )
        self._stopping = threading.Event()
        self._given_up_in_a_row = 0
        # Only spaces out requests; no text depends on it.
        self._jitter = random.Random(0)

    def stop(self) -> None:
        """Begin no further request, and wait for none."""
        self._stopping.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(
        self,
        prompt: str,
        *,
        key: str,
        seed: int,
        png: bytes | None = None,
        image_sha256: str = "",
        schema: Mapping[str, object] | None = None,
    ) -> str:
        """Return the model's answer, stored under `key` before it is returned.

        Args:
            prompt: The request.
            key: Key of the answer in the cache.
            seed: Sent along; a server may heed it.
            png: Image to be described.
            image_sha256: Hash of the image file, for the cache.
            schema: JSON schema that the answer must follow.

        Raises:
            ServerError: If there is no answer after all tries, or there must not be another request.
        """
        known = self._cache.text(key)
        if known is not None:  # another process was faster
            return known
        for number in range(1, self.config.max_tries + 1):
            try:
                return self._ask_once(prompt, key, seed, png, image_sha256, schema)
            except RequestError as failure:
                if not failure.passing or number == self.config.max_tries:
                    raise self._give_up(failure, number) from failure
                self._check_wait(failure)
                wait_s = self._wait(number, failure.retry_after_s)
            if self._stopping.wait(wait_s):
                raise ServerError("stopped", f"{self.config.base_url}: the run was stopped", stops=True)
        raise AssertionError("max_tries is at least 1")

    def _ask_once(
        self,
        prompt: str,
        key: str,
        seed: int,
        png: bytes | None,
        image_sha256: str,
        schema: Mapping[str, object] | None,
    ) -> str:
        with self._first_alone():
            allow = self._check_limits if self._limited else None
            request = self._cache.begin_request(key, self.writer.identity, allow)
            try:
                text, usage = self._request_once(prompt, key, seed, png, schema)
            except RequestError as failure:
                self._cache.end_request(request, failure.code)
                raise
            answer = Answer(key, text, self.writer.identity, image_sha256, prompt, seed)
            self._cache.end_request(request, "answered", usage or Usage(), answer)
        with self._lock:
            self._given_up_in_a_row = 0
        self._check_usage_is_told(usage)
        self._prompt_known = True
        return text

    @contextmanager
    def _first_alone(self) -> Iterator[None]:
        """Let no other request leave before one has shown how many tokens a prompt with an image is."""
        if not self._prompt_known:
            with self._first:
                if not self._prompt_known:
                    yield
                    return
        yield

    def _check_limits(self, spent: Spending) -> None:
        config = self.config
        # What is open may have been answered and charged; this is the most it may come to, with one more.
        answers = (spent.num_open + 1) * config.max_new_tokens
        prompts = (spent.num_open + 1) * spent.largest_prompt
        tokens = spent.prompt_tokens + spent.completion_tokens + answers + prompts
        cost = cost_of(config, spent.prompt_tokens + prompts, spent.completion_tokens + answers) or 0
        over = None
        if config.max_requests is not None and spent.num_requests >= config.max_requests:
            over = f"max_requests {config.max_requests}"
        elif config.max_total_tokens is not None and tokens > config.max_total_tokens:
            over = f"max_total_tokens {config.max_total_tokens}"
        elif config.max_cost is not None and cost > config.max_cost:
            over = f"max_cost {config.max_cost:g}"
        if over is not None:
            raise ServerError(
                "cost-cap",
                f"{over} is reached or would be passed: {spent.num_requests} requests, {spent.prompt_tokens} "
                f"prompt and {spent.completion_tokens} answer tokens so far; raise the limit to go on",
                stops=True,
            )

    def _check_usage_is_told(self, usage: Usage | None) -> None:
        if usage is None and self._counts_tokens:
            raise ServerError(
                "no-usage",
                f"{self.config.base_url} does not say how many tokens it used, so max_total_tokens and max_cost "
                "cannot be kept; set max_requests instead",
                stops=True,
            )

    def _give_up(self, failure: RequestError, number: int) -> ServerError:
        tries = f" ({number} tries)" if number > 1 else ""
        detail = f"{self.config.base_url}: {failure}{tries}"
        if not failure.passing:
            return ServerError(failure.code, detail, stops=failure.stops)
        with self._lock:
            self._given_up_in_a_row += 1
            down = self._given_up_in_a_row >= _MOST_IN_A_ROW
        if down:
            detail += f"; {_MOST_IN_A_ROW} images in a row had no answer, so the run stops: is the server up?"
        return ServerError(failure.code, detail, stops=failure.stops or down)

    def _check_wait(self, failure: RequestError) -> None:
        if (failure.retry_after_s or 0) > self.config.max_wait_s:
            raise ServerError(
                failure.code,
                f"{self.config.base_url}: {failure}; it asks to wait {failure.retry_after_s:.0f} s, more than "
                f"max_wait_s {self.config.max_wait_s:g}; run again later",
                stops=True,
            )

    def _wait(self, number: int, retry_after_s: float | None) -> float:
        """Return how long to wait before the next try: what the server asks for, or longer each time."""
        grown = self.config.backoff_s * 2.0 ** (number - 1)
        with self._lock:
            # Between half and all of it, so that many waiters do not come back together.
            own = grown * self._jitter.uniform(0.5, 1)
        return max(min(own, self.config.max_wait_s), retry_after_s or 0)

    def _request_once(
        self, prompt: str, key: str, seed: int, png: bytes | None, schema: Mapping[str, object] | None
    ) -> tuple[str, Usage | None]:
        import openai

        try:
            completion = self._client.chat.completions.create(
                **request_body(self.config, prompt, seed, png, schema),
                # Servers that heed it answer, and charge, a repeated request once.
                extra_headers={"Idempotency-Key": key},
            )
        except openai.APITimeoutError as error:
            raise RequestError(
                "time-out", f"no answer within {self.config.timeout_s:g} s", passing=True
            ) from error
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise RequestError("no-connection", f"{reason or type(reason).__name__}", passing=True) from error
        except openai.APIStatusError as error:
            raise failure_of_status(error, self.config) from error
        except (openai.APIError, ValueError) as error:
            raise RequestError("wrong-json", f"the answer is not JSON: {error}", passing=True) from error
        return text_and_usage(completion)


def _new_client(config: ServerConfig, api_key: str, host: str) -> Any:
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise DataError(
            f"method server needs a client ({error}); install medgen-captioning[server]"
        ) from error

    def guard(request: httpx2.Request) -> None:
        if request.url.host.lower() != host:
            raise DataError(f"refused to send a request to {request.url.host}, which is not {host}")

    # A proxy of the environment must not see what is meant for this machine, nor what is not encrypted.
    through_proxy = config.base_url.startswith("https:") and not is_loopback(host)
    http_client = httpx2.Client(
        follow_redirects=False,
        trust_env=through_proxy,
        timeout=config.timeout_s,
        event_hooks={"request": [guard]},
        limits=httpx2.Limits(max_connections=config.concurrency),
    )
    return openai.OpenAI(
        api_key=api_key,
        base_url=config.base_url,
        max_retries=0,
        timeout=config.timeout_s,
        http_client=http_client,
    )


def cost_of(config: ServerConfig, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Return what tokens cost, in the currency of the two prices; None if the config has no prices."""
    if config.prompt_price is None or config.completion_price is None:
        return None
    return (prompt_tokens * config.prompt_price + completion_tokens * config.completion_price) / 1e6
