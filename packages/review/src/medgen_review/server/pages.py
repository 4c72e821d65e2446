"""What the templates show, as plain values: no template knows a model, and none computes."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medgen_review.blind_images import ImageNames, ShownImage
from medgen_review.schedule import REFERENCES, Page, Place, places_on, ranked_letters, value_range
from medgen_review.store import Value
from medgen_review.study import RANK, Study

PageState = Literal["complete", "begun", "untouched"]

NO_VALUE = Value(None, 0, "")
MOST_CHOICES = 21  # beyond, a number is typed


@dataclass(frozen=True)
class Scale:
    """One scale or rank of a set; `slug` is its name in the page and in forms."""

    slug: str
    set_name: str
    name: str
    question: str
    lowest: int
    highest: int
    lowest_anchor: str
    highest_anchor: str
    choices: Sequence[int]
    value: int | None
    version: int
    asked: bool
    notice: str

    @property
    def label(self) -> str:
        """Set and scale, for messages."""
        return f"{self.set_name}, {'place in the ranking' if self.slug.endswith(RANK) else self.name}"


@dataclass(frozen=True)
class ShownSet:
    """A set on the page: its letter, the names of its images and its scales."""

    letter: str
    name: str
    images: Sequence[str]
    scales: Sequence[Scale]


@dataclass(frozen=True)
class PageView:
    """One page; numbers count from 1 here."""

    number: int
    num_pages: int
    prompt: str
    references: ShownSet
    sets: Sequence[ShownSet]
    ranks: Sequence[Scale]
    ranks_real: bool
    attention: str
    image_side: int
    notices: Sequence[str]
    action: str


@dataclass(frozen=True)
class Progress:
    """How many values are asked for and given, shared ranks not counted as given."""

    asked: int
    given: int


@dataclass(frozen=True)
class Entry:
    """A line of the overview."""

    number: int
    prompt: str
    state: PageState
    words: str


def slug_of(study: Study, place: Place) -> str:
    """Return the name of a place in pages and forms, like `3-A-0` or `3-real-rank`; pages count from 1."""
    keys = [aspect.key for aspect in study.aspects]
    field = RANK if place.field == RANK else str(keys.index(place.field))
    return f"{place.page + 1}-{place.letter or 'real'}-{field}"


def slugs_on(study: Study, page: Page) -> Mapping[str, Place]:
    """Return every place of a page by its slug; what is not among them is not of the page."""
    return {slug_of(study, place): place for place in places_on(study, page)}


def page_view(
    study: Study,
    pages: Sequence[Page],
    page: Page,
    values: Mapping[Place, Value],
    *,
    names: ImageNames,
    rater_number: int,
    notices: Sequence[str] = (),
    notice_at: Mapping[Place, str] | None = None,
) -> PageView:
    """Return a page as its rater sees it now.

    Args:
        study: The study.
        pages: All pages of the rater.
        page: The one to show.
        values: What the rater has given.
        names: Names of images in addresses.
        rater_number: Of the rater.
        notices: Said at the top of the page.
        notice_at: Said at single scales.
    """
    scales = [
        scale_view(study, page, place, values.get(place, NO_VALUE), (notice_at or {}).get(place, ""))
        for place in places_on(study, page)
    ]
    ratings = [scale for scale in scales if not scale.slug.endswith(RANK)]

    def shown(letter: str) -> ShownSet:
        images = [
            names.name(rater_number, ShownImage(page.number, letter, index))
            for index in range(len(page.image_orders[letter]))
        ]
        name = _set_name(letter)
        return ShownSet(letter, name, images, [each for each in ratings if letter and each.set_name == name])

    return PageView(
        number=page.number + 1,
        num_pages=len(pages),
        prompt=prompt_text(study, page),
        references=shown(REFERENCES),
        sets=[shown(letter) for letter in page.letters],
        ranks=[scale for scale in scales if scale.slug.endswith(RANK)],
        ranks_real=REFERENCES in ranked_letters(study, page),
        attention=_attention_words(study, page),
        image_side=study.design.image_side,
        notices=notices,
        action=secrets.token_hex(16),
    )


def scale_view(study: Study, page: Page, place: Place, value: Value, notice: str = "") -> Scale:
    """Return one scale or rank with the value that stands."""
    lowest, highest = value_range(study, page, place.field)
    aspect = next((each for each in study.aspects if each.key == place.field), None)
    choices = range(lowest, highest + 1)
    return Scale(
        slug=slug_of(study, place),
        set_name=_set_name(place.letter),
        name=aspect.name if aspect else _set_name(place.letter),
        question=aspect.question if aspect else "",
        lowest=lowest,
        highest=highest,
        lowest_anchor=aspect.lowest_anchor if aspect else "",
        highest_anchor=aspect.highest_anchor if aspect else "",
        choices=choices if len(choices) <= MOST_CHOICES else (),
        value=value.value,
        version=value.version,
        asked=page.attention is not None,
        notice=notice,
    )


def overview(study: Study, pages: Sequence[Page], open_places: Sequence[Place]) -> list[Entry]:
    """Return a line per page with what is missing on it."""
    left: dict[int, int] = {}
    for place in open_places:
        left[place.page] = left.get(place.page, 0) + 1
    entries = []
    for page in pages:
        missing, asked = left.get(page.number, 0), len(places_on(study, page))
        state: PageState = "complete" if not missing else "begun" if missing < asked else "untouched"
        words = {"complete": "complete", "begun": f"{missing} of {asked} missing", "untouched": "not begun"}
        entries.append(Entry(page.number + 1, prompt_text(study, page), state, words[state]))
    return entries


def progress_of(study: Study, pages: Sequence[Page], open_places: Sequence[Place]) -> Progress:
    """Return how far a rater is."""
    asked = sum(len(places_on(study, page)) for page in pages)
    return Progress(asked, asked - len(open_places))


def prompt_text(study: Study, page: Page) -> str:
    """Return the prompt of a page."""
    return next(prompt.text for prompt in study.prompts if prompt.prompt_id == page.prompt_id)


def _attention_words(study: Study, page: Page) -> str:
    if page.attention is None:
        return ""
    aspect = next(each for each in study.aspects if each.key == page.attention.aspect)
    return f"please give set {page.attention.letter} the value {page.attention.value} for “{aspect.name}”."


def _set_name(letter: str) -> str:
    return f"Set {letter}" if letter else "Real images"
