"""The studio as an ASGI application, and its errors in words."""

import logging
from collections.abc import Collection

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from medgen_review.server.answers import FormError
from medgen_review.server.images import PreparedImages
from medgen_review.server.routes import router
from medgen_review.server.security import Guard, LoginLimit
from medgen_review.server.studio import LoggedOutError, Studio
from medgen_review.store import RatingStore, RefusedError, StoreError

logger = logging.getLogger(__name__)

_HEADS = {
    403: "This cannot be done",
    404: "There is no such page",
    405: "This cannot be done",
    422: "Not saved",
    500: "Something went wrong",
    503: "Not saved yet",
}


def create_app(
    store: RatingStore,
    images: PreparedImages,
    *,
    origins: Collection[str],
    secure: bool = False,
    limit: LoginLimit | None = None,
) -> ASGIApp:
    """Return the studio of one study.

    Args:
        store: Where its ratings are kept.
        images: Its images, prepared.
        origins: Under which raters reach it, like `http://127.0.0.1:8000`; all others are refused.
        secure: Whether that is by TLS alone.
        limit: How often a client may fail to log in.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.studio = Studio(store, images, secure, limit or LoginLimit())
    app.include_router(router)
    app.add_exception_handler(LoggedOutError, _logged_out)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(StoreError, _not_stored)
    app.add_exception_handler(FormError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(Exception, _unexpected)
    # Outside of everything, so that the page of an unexpected error has the headers too.
    return Guard(app, origins=origins)


def _words(request: Request, status: int, words: str) -> Response:
    if request.headers.get("hx-request"):
        return PlainTextResponse(words, status)
    studio: Studio = request.app.state.studio
    head = _HEADS.get(status, "This cannot be done")
    return studio.page(request, "error.html", status=status, head=head, words=words)


def _logged_out(request: Request, error: Exception) -> Response:
    studio: Studio = request.app.state.studio
    if request.headers.get("hx-request"):
        return PlainTextResponse("You are logged out.", 401)
    if not str(error):
        return RedirectResponse("/login", 303)
    response = studio.page(request, "login.html", status=401, notice=f"You are logged out: {error}.")
    response.delete_cookie(studio.cookie, path="/", httponly=True, samesite="strict", secure=studio.secure)
    return response


def _refused(request: Request, error: Exception) -> Response:
    words = (
        "The address or the form is not one of this study."
        if isinstance(error, RequestValidationError)
        else error
    )
    return _words(request, 422, f"{str(words)[:1].upper()}{str(words)[1:]}.")


def _not_stored(request: Request, error: Exception) -> Response:
    # The message names files and databases: that is for the log, not for the rater.
    logger.error("%s %s: %s", request.method, request.url.path, error)
    words = "The study's database does not answer just now. Nothing was lost that the page called saved; try again."
    return _words(request, 503, words)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "There is no page at this address.", 405: "This address takes no such request."}
    known = error.detail if error.detail and error.detail != "Not Found" else ""
    return _words(request, error.status_code, words[405] if error.status_code == 405 else known or words[404])


def _unexpected(request: Request, _error: Exception) -> Response:
    # The error itself goes on to the server, which logs it.
    return _words(
        request, 500, "The server made a mistake. What was saved is kept; please tell the organisers."
    )
