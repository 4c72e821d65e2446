"""What keeps other sites, other computers and large requests away from the studio.

A browser on the rater's computer visits other sites too. Against them: only known names in `Host` (a foreign name
that was pointed at this address is refused), `Origin` on every POST, a token in every form that only our pages
know, a cookie that is not sent along from elsewhere and no script can read, and a policy under which a page loads
nothing but our own files and runs nothing that stands in it.
"""

import hmac
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Under `no-referrer` browsers send `Origin: null` with our own forms. Other sites learn nothing either way.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
MAX_BODY = 256 * 1024  # the form of a page with 25 sets is below 60 KiB
_BODY_WITHIN_S = 20.0


class Guard:
    """ASGI middleware: refuses what no page of ours sends, and puts the headers on every answer.

    Args:
        app: What is guarded.
        origins: Under which the studio is reached, like `http://127.0.0.1:8000`.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._hosts = frozenset(origin.split("://", 1)[1] for origin in origins)
        self._headers = dict(_HEADERS)
        if all(origin.startswith("https://") for origin in origins):
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # a web socket that is not accepted is closed by the server

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None and scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                refusal = PlainTextResponse("This is more than a page of the study sends.", 413)
            else:
                receive = _replay(body, receive)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if headers.get("host") not in self._hosts:
            return PlainTextResponse(
                "This study is not served under this address. Use the address you were given, letter by letter.",
                421,
            )
        if scope["method"] == "POST" and headers.get("origin") not in self._origins:
            return PlainTextResponse("Refused: this did not come from a page of the study.", 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return PlainTextResponse("This is more than a page of the study sends.", 413)
        return None


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body, or None where it is too large or does not come in time."""
    body = bytearray()
    with anyio.move_on_after(_BODY_WITHIN_S):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                return None
            if not message.get("more_body", False):
                return bytes(body)
    return None


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def signature(secret: bytes, purpose: str, code: str) -> str:
    """Return a token for one purpose that only who knows the study's secret can make, 32 hexadecimal digits."""
    return hmac.digest(secret, f"{purpose}\0{code}".encode(), "sha256")[:16].hex()


class LoginLimit:
    """Counts failed attempts to log in: at most `attempts` per `within_s` seconds and client.

    The codes hold 100 random bits, so this protects the log and the processor, not the codes.
    """

    def __init__(
        self, attempts: int = 10, within_s: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._attempts = attempts
        self._within_s = within_s
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, client: str) -> int:
        """Return for how many seconds a client has to wait; 0 if it may try."""
        with self._lock:
            failures = self._failures.get(client, deque())
            now = self._clock()
            while failures and failures[0] <= now - self._within_s:
                failures.popleft()
            return 0 if len(failures) < self._attempts else math.ceil(failures[0] + self._within_s - now)

    def failed(self, client: str) -> None:
        """Count a failed attempt."""
        with self._lock:
            self._failures.setdefault(client, deque(maxlen=self._attempts)).append(self._clock())
            self._failures.move_to_end(client)
            while len(self._failures) > 4096:  # a crowd of clients must not fill the memory
                self._failures.popitem(last=False)
