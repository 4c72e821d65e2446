"""A small OpenAI-compatible server on loopback: real HTTP, made-up captions, faults on demand.

It stands in for a vision endpoint in tests and benchmarks. The caption is a function of image, prompt and seed.
"""

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal[
    "bad-request", "cut", "hang", "overloaded", "rate-limit", "redirect", "wrong-json", "wrong-key"
]
FAULTS: tuple[Fault, ...] = ("rate-limit", "overloaded", "hang", "cut", "wrong-json")

_COLOURS = ("pink", "pale pink", "reddish-brown", "salmon-pink", "white", "yellow")
_SHAPES = ("flat", "irregular", "oval", "pedunculated", "round", "sessile")
_TEXTURES = ("granular", "nodular", "smooth", "wet")


@dataclass
class TinyServer:
    """What a running server was asked and answered.

    Attributes:
        port: On 127.0.0.1.
        served: How often each request, told by the hash of its body, was answered with a caption.
        charged: Answers charged, by the request's `Idempotency-Key`, which a server that heeds it charges once.
        num_requests: Requests that arrived, with and without faults.
        bodies: The last bodies, decoded; only if asked to keep them.
        headers: The headers of the same requests.
    """

    port: int = 0
    served: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    most_at_once: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        """Return the address that a client is given."""
        return f"http://127.0.0.1:{self.port}/v1"


def made_up_caption(body: dict[str, Any]) -> str:
    """Return a caption that follows a request of Med-Art: its opening, and words drawn from its hash."""
    content = body["messages"][0]["content"]
    prompt = next(part["text"] for part in content if part["type"] == "text")
    _, _, rest = prompt.partition("Start with '")
    opening = rest.partition("' and ensure")[0] or "A medical image"
    digest = hashlib.sha256(json.dumps([content, body.get("seed")]).encode()).digest()
    colour, shape, texture = (
        words[digest[i] % len(words)] for i, words in enumerate((_COLOURS, _SHAPES, _TEXTURES))
    )
    return (
        f"{opening}, with a {shape} area that is {colour}. The surface appears {texture}, and the surrounding "
        f"mucosa is {_COLOURS[digest[3] % len(_COLOURS)]}. No active bleeding is evident."
    )


@contextlib.contextmanager
def tiny_server(
    *,
    fault: Callable[[int], Fault | None] = lambda _: None,
    answer: Callable[[dict[str, Any]], str | None] = made_up_caption,
    delay_s: float = 0.0,
    hang_s: float = 30.0,
    retry_after: str = "0",
    tell_usage: bool = True,
    heed_keys: bool = False,
    keep_bodies: bool = False,
) -> Iterator[TinyServer]:
    """Run a server in threads of this process.

    Args:
        fault: Called with the number of a request, from 0; what goes wrong with it.
        answer: Text for a request body.
        delay_s: Time to think per request.
        hang_s: How long a hanging request lasts.
        retry_after: Header sent with a rate limit.
        tell_usage: Whether answers count tokens.
        heed_keys: Whether a request with a known `Idempotency-Key` is charged once only.
        keep_bodies: Keep bodies and headers, for a look at what was sent.
    """
    state = TinyServer()
    lock = threading.Lock()
    closing = threading.Event()
    at_once = 0

    class Handler(BaseHTTPRequestHandler):
        """One request: a fault, or a chat completion."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal at_once
            length = int(self.headers["Content-Length"])
            content = self.rfile.read(length)
            # A client killed while it sends, or a connection kept alive that outlives its server.
            if len(content) < length or closing.is_set():
                self.close_connection = True
                return
            body = json.loads(content)
            with lock:
                number = state.num_requests
                state.num_requests += 1
                at_once += 1
                state.most_at_once = max(state.most_at_once, at_once)
                if keep_bodies:
                    state.bodies.append(body)
                    state.headers.append({name.lower(): value for name, value in self.headers.items()})
            try:
                self._respond(fault(number), body, hashlib.sha256(content).hexdigest())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client was killed or gave up
            finally:
                with lock:
                    at_once -= 1

        def _respond(self, trouble: Fault | None, body: dict[str, Any], digest: str) -> None:
            match trouble:
                case None:
                    self._answer(body, digest)
                case "bad-request":
                    self._send(400, {"error": {"message": "this model takes no images", "code": None}})
                case "wrong-key":
                    self._send(
                        401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}
                    )
                case "rate-limit":
                    self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": retry_after})
                case "overloaded":
                    self._send(500, {"error": {"message": "internal error"}})
                case "redirect":
                    self._send(307, {}, {"Location": f"http://localhost:{state.port}/elsewhere"})
                case "hang":
                    closing.wait(hang_s)
                    self.close_connection = True
                case "wrong-json":
                    self._send_bytes(200, b'{"choices": [{"message": {"content": "An endo', {})
                case "cut":
                    content = json.dumps(_completion(answer(body), tell_usage)).encode()
                    self._head(200, len(content), {})
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True

        def _answer(self, body: dict[str, Any], digest: str) -> None:
            if delay_s:
                time.sleep(delay_s)
            content = json.dumps(_completion(answer(body), tell_usage)).encode()
            with lock:  # counted before it leaves: what a client holds was counted
                state.served[digest] += 1
                key = self.headers["Idempotency-Key"] or digest
                state.charged[key] += not (heed_keys and key in state.charged)
            self._send_bytes(200, content, {})

        def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
            self._send_bytes(status, json.dumps(value).encode(), headers or {})

        def _send_bytes(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self._head(status, len(content), headers)
            self.wfile.write(content)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Stay silent."""

    class Server(ThreadingHTTPServer):
        """A server that takes a client that was killed for what it is."""

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _completion(text: str | None, tell_usage: bool) -> dict[str, Any]:
    completion: dict[str, Any] = {
        "id": "tiny",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    if tell_usage:
        num_words = len((text or "").split())
        completion["usage"] = {
            "prompt_tokens": 100,
            "completion_tokens": num_words,
            "total_tokens": 100 + num_words,
        }
    return completion
