"""From form to database: what a page sends is checked, recorded as one action, and answered.

The script of the page sends one action per change (`slug`, `value` and `seen` once per value, two values where a
rank changes hands). Without script the whole page is one form, of which only what was changed since it was drawn
is an action.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.datastructures import FormData

from medgen_review.schedule import Page, Place
from medgen_review.server.pages import slugs_on
from medgen_review.store import Change, RatingStore, Recorded
from medgen_review.study import Study

CHANGED_ELSEWHERE = (
    "Changed in another window: this value stands, yours was not saved. Give it again if it is meant."
)


class FormError(ValueError):
    """A form is not one that a page of the study sends."""


@dataclass(frozen=True)
class Action:
    """Changes of one page that belong together, and the id that makes sending them twice harmless."""

    action_id: str
    changes: Sequence[Change]


def action_of(study: Study, page: Page, form: FormData) -> Action:
    """Read an action that the script sent.

    Raises:
        FormError: If it is none, or not of this page.
    """
    slugs, texts, seen = (_texts(form, name) for name in ("slug", "value", "seen"))
    if not slugs or not len(slugs) == len(texts) == len(seen) or len(slugs) > 2:
        raise FormError("an answer is one or two values, each with its place and the version that was seen")
    known = slugs_on(study, page)
    changes = [_change(known, *each) for each in zip(slugs, texts, seen, strict=True)]
    return Action(_one(form, "action"), changes)


def changes_of(study: Study, page: Page, form: FormData) -> Action:
    """Read the whole form of a page: what differs from what it was drawn with.

    Raises:
        FormError: If a field is not of this page or no number.
    """
    changes = []
    for slug, place in slugs_on(study, page).items():
        if f"value-{slug}" not in form:
            continue
        change = _change({slug: place}, slug, _one(form, f"value-{slug}"), _one(form, f"seen-{slug}"))
        if str("" if change.value is None else change.value) != _one(form, f"drawn-{slug}"):
            changes.append(change)
    # The same page sent again is the same action; changed and sent again it is another.
    content = repr([(each.letter, each.field, each.value, each.seen_version) for each in changes])
    return Action(f"{_one(form, 'action')[:60]}-{hashlib.sha256(content.encode()).hexdigest()[:16]}", changes)


def record_page(
    store: RatingStore, rater_number: int, page: Page, action: Action
) -> Mapping[Place, Recorded]:
    """Record the form of a page; values that are in conflict stay as they stand, all others are written.

    Returns:
        The values in conflict.

    Raises:
        RefusedError: If a value is out of range or the study takes no more values.
        StoreError: If nothing could be written now.
    """
    if not action.changes:
        return {}
    answers = store.record_all(rater_number, page.number, action.changes, action_id=action.action_id)
    stale = {
        Place(page.number, change.letter, change.field): answer
        for change, answer in zip(action.changes, answers, strict=True)
        if answer.conflict
    }
    rest = [each for each in action.changes if Place(page.number, each.letter, each.field) not in stale]
    if stale and rest:
        again = store.record_all(rater_number, page.number, rest, action_id=f"{action.action_id}-rest")
        for change, answer in zip(rest, again, strict=True):
            if answer.conflict:
                stale[Place(page.number, change.letter, change.field)] = answer
    return stale


def _change(known: Mapping[str, Place], slug: str, text: str, seen: str) -> Change:
    if slug not in known:
        raise FormError(f"no value is asked for at {slug[:40]!r} on this page")
    place = known[slug]
    return Change(
        place.letter, place.field, _number(text, "a value") if text else None, _number(seen or "0", "seen")
    )


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise FormError(f"{what} must be a whole number, got {text[:40]!r}")
    return int(text)


def _texts(form: FormData, name: str) -> list[str]:
    return [text for text in form.getlist(name) if isinstance(text, str)]


def _one(form: FormData, name: str) -> str:
    texts = _texts(form, name)
    if len(texts) != 1:
        raise FormError(f"{name[:40]} must come once, came {len(texts)} times")
    return texts[0]
