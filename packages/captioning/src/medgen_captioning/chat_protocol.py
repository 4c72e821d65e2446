"""Requests and answers of the OpenAI chat-completions protocol, and what its failures mean."""

import base64
import email.utils
import time
from collections.abc import Mapping
from typing import Any

from medgen_captioning.caption_cache import Usage
from medgen_captioning.config import ServerConfig

# What may be different when asked again; 529 is what some servers say when overloaded.
_PASSING = frozenset([408, 409, 425, 429, 500, 502, 503, 504, 529])
# Wrong key, wrong model or wrong address: the next image would fare no better.
_HOPELESS = frozenset([401, 403, 404, 405])


class RequestError(Exception):
    """One request came to nothing.

    Attributes:
        code: Short name of the reason.
        passing: Whether the same request may fare better later.
        stops: Whether no other request may fare better.
        retry_after_s: How long the server asks to wait.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        passing: bool = False,
        stops: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.passing = passing
        self.stops = stops
        self.retry_after_s = retry_after_s


def request_body(
    config: ServerConfig, prompt: str, seed: int, png: bytes | None, schema: Mapping[str, object] | None
) -> dict[str, Any]:
    """Return the arguments of a chat completion: one message of an image and a text."""
    content: list[dict[str, object]] = [{"type": "text", "text": prompt}]
    if png is not None:
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    body: dict[str, Any] = {
        "model": config.model,
        "messages": [{"role": "user", "content": content}],
        "seed": seed,
        config.length_field: config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if config.top_k is not None:
        body["extra_body"] = {"top_k": config.top_k}
    if schema is not None:
        form = {"name": "answer", "strict": True, "schema": dict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def failure_of_status(error: Any, config: ServerConfig) -> RequestError:
    """Return what an HTTP status means, from the client's error."""
    status = int(error.status_code)
    said = " ".join(str(error.message).split())[:300]
    if 300 <= status < 400:
        place = error.response.headers.get("location", "nowhere")
        return RequestError(
            "redirect", f"redirects to {place}; give the final address as base_url", stops=True
        )
    if status in (401, 403):
        return RequestError(
            "refused-key", f"{status} {said}; check the key in {config.api_key_env}", stops=True
        )
    if status in _HOPELESS:
        return RequestError(
            "wrong-address", f"{status} {said}; check base_url and model {config.model!r}", stops=True
        )
    if getattr(error, "code", None) == "insufficient_quota":
        return RequestError("no-quota", f"{status} {said}; the account has no credit left", stops=True)
    if status in _PASSING or status >= 500:
        return RequestError(
            f"status-{status}",
            f"{status} {said}",
            passing=True,
            retry_after_s=_retry_after(error.response.headers),
        )
    return RequestError(f"status-{status}", f"{status} {said}; is {config.model!r} a vision model?")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a server asks to wait, given as milliseconds, seconds or a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def text_and_usage(completion: Any) -> tuple[str, Usage | None]:
    """Return the text of a completion, and what it used if the server says so.

    Raises:
        RequestError: If it is no chat completion.
    """
    # The client takes over what is JSON without looking at it, and hands out what is not as a string.
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise RequestError(
            "wrong-json",
            f"expected a chat completion with choices, got {str(completion)[:120]!r}",
            passing=True,
        )
    content = getattr(getattr(choices[0], "message", None), "content", None)
    if content is not None and not isinstance(content, str):
        raise RequestError("wrong-json", f"expected text, got {str(content)[:120]!r}", passing=True)
    counts = getattr(completion, "usage", None)
    prompt, answer = (getattr(counts, name, None) for name in ("prompt_tokens", "completion_tokens"))
    if isinstance(prompt, int) and isinstance(answer, int):
        return content or "", Usage(prompt, answer)
    return content or "", None
