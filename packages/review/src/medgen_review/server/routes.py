"""The addresses of the studio. Every page is plain HTML that works without script; `/page/N/answer` is for it.

No address carries a code or names anything but a page's number or an image's keyed name.
"""

import mimetypes
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from medgen_review.blind_images import IMAGE_HEADERS
from medgen_review.schedule import Page, Place
from medgen_review.server.answers import CHANGED_ELSEWHERE, FormError, action_of, changes_of, record_page
from medgen_review.server.pages import NO_VALUE, overview, page_view, scale_view, slug_of
from medgen_review.server.studio import Studio, Visitor, plain_code, same
from medgen_review.store import RefusedError
from medgen_review.study import RANK

router = APIRouter()

# Address of each file of ours: nothing else of the folder is ever served.
STATIC_FILES = {
    "studio.css": "studio.css",
    "studio.js": "studio.js",
    "htmx.js": "htmx-2.0.11.min.js",
    "icon.svg": "icon.svg",
}
MOST_FIELDS = 2000


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


TheStudio = Annotated[Studio, Depends(_studio)]


def _visitor(request: Request, studio: TheStudio) -> Visitor:
    return studio.visitor(request)


async def _form(request: Request) -> FormData:
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise FormError("a form must be application/x-www-form-urlencoded")
    return await request.form(max_fields=MOST_FIELDS, max_files=0)


TheVisitor = Annotated[Visitor, Depends(_visitor)]
TheForm = Annotated[FormData, Depends(_form)]


def _own_form(visitor: TheVisitor, form: TheForm) -> FormData:
    if not same(str(form.get("csrf", "")), visitor.csrf):
        raise HTTPException(
            403, "This form is out of date. Go back, load the page again and repeat the last step."
        )
    return form


OwnForm = Annotated[FormData, Depends(_own_form)]


def _page(number: str, studio: TheStudio, visitor: TheVisitor) -> Page:
    pages = studio.pages(visitor)
    if not (number.isascii() and number.isdigit() and len(number) < 6 and 1 <= int(number) <= len(pages)):
        raise HTTPException(404, f"This study has pages 1 to {len(pages)}.")
    return pages[int(number) - 1]


ThePage = Annotated[Page, Depends(_page)]


@router.get("/")
def start(studio: TheStudio, visitor: TheVisitor) -> Response:
    """Go to the briefing, or on with what was begun."""
    begun = any(value.value is not None for value in studio.store.values(visitor.number).values())
    return RedirectResponse("/continue" if begun else "/briefing", 303)


@router.get("/login")
def login_page(request: Request, studio: TheStudio) -> Response:
    """Show the form for the code."""
    return studio.page(request, "login.html", notice="")


@router.post("/login")
def login(request: Request, studio: TheStudio, form: TheForm) -> Response:
    """Log in with a code."""
    client = request.client.host if request.client else ""
    wait_s = studio.limit.wait_s(client)
    if wait_s:
        words = f"Too many attempts. Please wait {max(1, round(wait_s / 60))} minutes and try again."
        return studio.page(request, "login.html", status=429, notice=words)
    code = str(form.get("code", ""))[:200]
    try:
        studio.visitor_with(code)
    except RefusedError as error:
        studio.limit.failed(client)
        return studio.page(request, "login.html", status=401, notice=f"Not logged in: {error}.")
    response = RedirectResponse("/", 303)
    response.set_cookie(
        studio.cookie, plain_code(code), path="/", httponly=True, samesite="strict", secure=studio.secure
    )
    return response


@router.post("/logout", dependencies=[Depends(_own_form)])
def logout(studio: TheStudio) -> Response:
    """Forget who was logged in on this computer."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(studio.cookie, path="/", httponly=True, samesite="strict", secure=studio.secure)
    return response


@router.get("/briefing")
def briefing(request: Request, studio: TheStudio, visitor: TheVisitor) -> Response:
    """Show the rubric."""
    return studio.page(
        request,
        "briefing.html",
        visitor=visitor,
        here="briefing",
        progress=studio.progress(visitor),
        study=studio.study,
        num_pages=len(studio.pages(visitor)),
    )


@router.get("/continue")
def go_on(studio: TheStudio, visitor: TheVisitor) -> Response:
    """Go to the first page on which something is missing."""
    if visitor.rater.finished_at:
        return RedirectResponse("/finish", 303)
    missing = studio.store.open_places(visitor.number)
    return RedirectResponse(f"/page/{missing[0].page + 1}" if missing else "/overview", 303)


@router.get("/overview")
def show_overview(request: Request, studio: TheStudio, visitor: TheVisitor) -> Response:
    """Show all pages and what is missing on them."""
    missing = studio.store.open_places(visitor.number)
    return studio.page(
        request,
        "overview.html",
        visitor=visitor,
        here="overview",
        progress=studio.progress(visitor, missing),
        contents=overview(studio.study, studio.pages(visitor), missing),
        finished=_day(visitor),
    )


@router.get("/page/{number}")
def show_page(request: Request, studio: TheStudio, visitor: TheVisitor, page: ThePage) -> Response:
    """Show one page with the values that stand."""
    return _shown(request, studio, visitor, page)


@router.post("/page/{number}")
def save_page(
    request: Request, studio: TheStudio, visitor: TheVisitor, page: ThePage, form: OwnForm
) -> Response:
    """Record the form of a page and go where its button says."""
    action = changes_of(studio.study, page, form)
    stale = record_page(studio.store, visitor.number, page, action)
    if stale:
        return _shown(request, studio, visitor, page, stale=list(stale))
    target = page.number + 1 + {"previous": -1, "next": 1}.get(str(form.get("go")), 0)
    on_page = 1 <= target <= len(studio.pages(visitor))
    return RedirectResponse(f"/page/{target}" if on_page else "/overview", 303)


@router.post("/page/{number}/answer")
def answer(studio: TheStudio, visitor: TheVisitor, page: ThePage, form: OwnForm) -> Response:
    """Record one action of the script and return what changed on the page: state, ranking, progress."""
    action = action_of(studio.study, page, form)
    answers = studio.store.record_all(visitor.number, page.number, action.changes, action_id=action.action_id)
    places = [Place(page.number, change.letter, change.field) for change in action.changes]
    conflict = any(each.conflict for each in answers)
    values = studio.store.values(visitor.number)
    notice_at = {places[0]: CHANGED_ELSEWHERE} if conflict else {}
    ranking = places[0].field == RANK
    view = None
    if ranking:
        view = page_view(
            studio.study,
            studio.pages(visitor),
            page,
            values,
            names=studio.names,
            rater_number=visitor.number,
            notice_at=notice_at,
        )
    text = studio.render(
        "answer.html",
        oob=True,
        progress=studio.progress(visitor),
        ranking=ranking,
        view=view,
        conflict=conflict,
        each=scale_view(
            studio.study, page, places[0], values.get(places[0], NO_VALUE), notice_at.get(places[0], "")
        ),
    )
    versions = ",".join(
        f"{slug_of(studio.study, place)}={each.version}" for place, each in zip(places, answers, strict=True)
    )
    return HTMLResponse(text, 409 if conflict else 200, {"X-Versions": versions})


@router.get("/finish")
def finish_page(request: Request, studio: TheStudio, visitor: TheVisitor) -> Response:
    """Show what finishing means, or thanks."""
    return _finish_page(request, studio, visitor)


@router.post("/finish", dependencies=[Depends(_own_form)])
def finish(request: Request, studio: TheStudio, visitor: TheVisitor) -> Response:
    """Close the study of this rater."""
    if studio.store.open_places(visitor.number):
        return _finish_page(request, studio, visitor, status=409)
    studio.store.finish(visitor.number)
    return RedirectResponse("/finish", 303)


@router.get("/image/{name}")
def image(name: str, studio: TheStudio, visitor: TheVisitor) -> Response:
    """Return an image of one of this rater's pages."""
    shown = studio.image_places(visitor).get(name)
    if shown is None:
        raise HTTPException(404, "There is no such image in your study.")
    content = studio.images.content(studio.pages(visitor)[shown.page], shown)
    return Response(content, headers=dict(IMAGE_HEADERS))


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Return one of our own files."""
    if name not in STATIC_FILES:
        raise HTTPException(404, "There is no such file.")
    content = resources.files("medgen_review").joinpath("static", STATIC_FILES[name]).read_bytes()
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


def _shown(
    request: Request, studio: Studio, visitor: Visitor, page: Page, *, stale: list[Place] | None = None
) -> Response:
    notices = []
    if visitor.rater.finished_at:
        notices.append("You have finished this study: values can be looked at, but not changed any more.")
    if stale:
        number = "One value was" if len(stale) == 1 else f"{len(stale)} values were"
        notices.append(
            f"{number} changed in another window since this page was drawn; see below what stands now."
        )
    view = page_view(
        studio.study,
        studio.pages(visitor),
        page,
        studio.store.values(visitor.number),
        names=studio.names,
        rater_number=visitor.number,
        notices=notices,
        notice_at=dict.fromkeys(stale or [], CHANGED_ELSEWHERE),
    )
    return studio.page(
        request,
        "page.html",
        status=409 if stale else 200,
        visitor=visitor,
        here="page",
        progress=studio.progress(visitor),
        view=view,
    )


def _finish_page(request: Request, studio: Studio, visitor: Visitor, *, status: int = 200) -> Response:
    progress = studio.progress(visitor)
    return studio.page(
        request,
        "finish.html",
        status=status,
        visitor=visitor,
        progress=progress,
        missing=progress.asked - progress.given,
        finished=_day(visitor),
    )


def _day(visitor: Visitor) -> str:
    """Return when the rater finished, to the minute; empty if not yet."""
    return (visitor.rater.finished_at or "")[:16].replace("T", " ")
