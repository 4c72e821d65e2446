"""What the requests of one study share: its store, images, names and templates, and who is asking."""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from medgen_review.blind_images import ImageNames, ShownImage
from medgen_review.schedule import Page, Place
from medgen_review.server.images import PreparedImages
from medgen_review.server.pages import Progress, progress_of
from medgen_review.server.security import LoginLimit, signature
from medgen_review.store import Rater, RatingStore, RefusedError
from medgen_review.study import Study


class LoggedOutError(Exception):
    """Nobody is logged in, or the code opens the study no more; the message is for the page to log in."""


@dataclass(frozen=True)
class Visitor:
    """Who is asking.

    Attributes:
        rater: The rater.
        csrf: Token of this rater's forms.
        tag: Name of this rater in the browser's own storage; says nothing about the rater.
    """

    rater: Rater
    csrf: str
    tag: str

    @property
    def number(self) -> int:
        """The rater's number."""
        return self.rater.number


@dataclass
class Studio:
    """One study being served."""

    store: RatingStore
    images: PreparedImages
    secure: bool
    limit: LoginLimit
    _tables: dict[int, Mapping[str, ShownImage]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = ImageNames(self.store.secret)
        # Cookies know no ports: two studies on one computer must not share one.
        own = signature(self.store.secret, "cookie", "")[:12]
        self.cookie = f"__Host-review-{own}" if self.secure else f"review-{own}"
        self.templates = Environment(
            loader=PackageLoader("medgen_review"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    @property
    def study(self) -> Study:
        """The study."""
        return self.store.study

    def visitor(self, request: Request) -> Visitor:
        """Return who is logged in.

        Raises:
            LoggedOutError: If nobody is.
            StoreError: If the database cannot be asked.
        """
        code = request.cookies.get(self.cookie)
        if not code:
            raise LoggedOutError("")
        try:
            return self.visitor_with(code)
        except RefusedError as error:
            raise LoggedOutError(str(error)) from error

    def visitor_with(self, code: str) -> Visitor:
        """Return the rater with this code.

        Raises:
            RefusedError: If it opens nothing.
        """
        rater = self.store.rater_of(code)
        plain = plain_code(code)
        secret = self.store.secret
        return Visitor(rater, signature(secret, "form", plain), signature(secret, "browser", plain)[:16])

    def pages(self, visitor: Visitor) -> tuple[Page, ...]:
        """Return the pages of a rater."""
        return self.store.pages(visitor.number)

    def image_places(self, visitor: Visitor) -> Mapping[str, ShownImage]:
        """Return the place behind each image name of a rater; computed once."""
        if visitor.number not in self._tables:
            self._tables[visitor.number] = self.names.table(visitor.number, self.pages(visitor))
        return self._tables[visitor.number]

    def progress(self, visitor: Visitor, open_places: Sequence[Place] | None = None) -> Progress:
        """Return how far a rater is."""
        if open_places is None:
            open_places = self.store.open_places(visitor.number)
        return progress_of(self.study, self.pages(visitor), open_places)

    def render(self, template: str, **context: object) -> str:
        """Return a template as text."""
        defaults = {"title": self.study.title, "rater": None, "progress": None, "here": "", "oob": False}
        return self.templates.get_template(template).render({**defaults, "surround": "light", **context})

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        visitor: Visitor | None = None,
        **context: object,
    ) -> HTMLResponse:
        """Return a whole page."""
        surround = "dark" if request.cookies.get("surround") == "dark" else "light"
        text = self.render(template, rater=visitor, surround=surround, **context)
        return HTMLResponse(text, status)


def plain_code(code: str) -> str:
    """Return a code without what people add when they type it, as it is kept in the cookie."""
    return re.sub(r"[^0-9A-Z]", "", code.upper())


def same(given: str, expected: str) -> bool:
    """Compare two tokens in a time that tells nothing about where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
