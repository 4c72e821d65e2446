"""What each rater sees, in which order and under which letter: a pure function of the study and the rater's number.

Nothing is drawn from a generator: every order is sorted by a hash of seed, purpose and rater, so that a study
goes on after a restart, on another machine or under another Python exactly where it was.

Letters are places: A is the set shown first. The orders of the models are the rows of a Williams square
(Williams 1949: a Latin square in which, over all rows, every model also follows every other equally often). The
prompts of a block, as many as the square has rows, get different rows for one rater, and as many raters in turn get
different rows for one prompt: over whole blocks each model is at each place equally often, for every rater and
for every prompt. Prompts are shown in the order of the rows of a second such square.
"""

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from medgen_review.study import RANK, REAL, Study, StudyImage

Item = TypeVar("Item")
PageKind = Literal["study", "repeat", "attention"]

REFERENCES = ""  # the letter of the references, which have none


class Place(NamedTuple):
    """Where one value is given."""

    page: int
    letter: str
    field: str  # key of an aspect, or `RANK`


@dataclass(frozen=True)
class Attention:
    """The value that an attention page asks for."""

    letter: str
    aspect: str  # key
    value: int


@dataclass(frozen=True)
class Page:
    """One page of one rater.

    Attributes:
        number: Place in the rater's study, from 0.
        prompt_id: Of the prompt shown.
        kind: First showing, second showing, or a page that asks for one given value.
        order: What is rated, by place: the first is under A.
        image_orders: By letter, `REFERENCES` included: which image of the set is at each place of the grid.
        attention: Of an attention page.
    """

    number: int
    prompt_id: str
    kind: PageKind
    order: tuple[str, ...]
    image_orders: Mapping[str, tuple[int, ...]]
    attention: Attention | None = None

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the page, A first."""
        return tuple(string.ascii_uppercase[: len(self.order)])

    def letter_of(self, model: str) -> str:
        """Return the letter a model is shown under.

        Raises:
            KeyError: If the model is not rated in this study.
        """
        if model not in self.order:
            raise KeyError(f"page {self.number} has no set of {model!r}; it has {', '.join(self.order)}")
        return self.letters[self.order.index(model)]

    def model_of(self, letter: str) -> str:
        """Return the model under a letter; `REAL` for the references.

        Raises:
            KeyError: If the page has no such letter.
        """
        if letter == REFERENCES:
            return REAL
        if letter not in self.letters:
            raise KeyError(f"page {self.number} has no set {letter!r}; it has {', '.join(self.letters)}")
        return self.order[self.letters.index(letter)]


def pages_for(study: Study, rater_number: int) -> tuple[Page, ...]:
    """Return all pages of a rater, in order.

    Repeats show prompts of the first third again, in the last third or at the end, at least a third of the study
    later and with every model under another letter. Attention pages show a prompt again that was rated before.

    Args:
        study: The study.
        rater_number: From 0; raters are balanced in the order of their numbers.
    """
    if rater_number < 0:
        raise ValueError(f"rater_number must be 0 or more, got {rater_number}")
    shown = _prompt_order(study, rater_number)
    plan: list[tuple[int, PageKind]] = [(prompt, "study") for prompt in shown]
    plan = _with_attention(study, rater_number, _with_repeats(study, rater_number, plan))
    return tuple(_page(study, rater_number, number, *planned) for number, planned in enumerate(plan))


def places_on(study: Study, page: Page) -> tuple[Place, ...]:
    """Return every value that a page asks for: its aspects set by set, then the ranks."""
    if page.attention is not None:
        return (Place(page.number, page.attention.letter, page.attention.aspect),)
    ratings = [(letter, aspect.key) for letter in page.letters for aspect in study.aspects]
    ranks = [(letter, RANK) for letter in ranked_letters(study, page)]
    return tuple(Place(page.number, letter, field) for letter, field in [*ratings, *ranks])


def ranked_letters(study: Study, page: Page) -> tuple[str, ...]:
    """Return the letters that the global ranking of a page orders; none on an attention page.

    The references are among them where the design ranks them, unless real images are hidden under a letter: then
    those stand for the real images, and nobody knows it.
    """
    if page.attention is not None:
        return ()
    with_references = study.design.rank_real and not study.design.hidden_real
    return (*page.letters, REFERENCES) if with_references else page.letters


def value_range(study: Study, page: Page, field: str) -> tuple[int, int]:
    """Return the lowest and the highest value of a field: 0 to `study.highest`, or 1 to the number of ranks."""
    return (1, len(ranked_letters(study, page))) if field == RANK else (0, study.highest)


def image_at(study: Study, page: Page, letter: str, index: int) -> StudyImage:
    """Return the image at a place of the grid of a letter, or of `REFERENCES`.

    Raises:
        KeyError: If the page has no such letter or place.
    """
    model = page.model_of(letter)
    order = page.image_orders[letter]
    if not 0 <= index < len(order):
        raise KeyError(f"page {page.number}, set {letter!r}: no image {index}; it has {len(order)}")
    if letter == REFERENCES:
        return study.reference_set(page.prompt_id).images[order[index]]
    return study.image_set(page.prompt_id, model).images[order[index]]


def num_williams_rows(num_items: int) -> int:
    """Return how many rows a Williams square of so many items has: one each, or two each for an odd number."""
    return num_items if num_items % 2 == 0 or num_items == 1 else 2 * num_items


def williams_row(num_items: int, row: int) -> tuple[int, ...]:
    """Return one row of a Williams square: 0, 1, n-1, 2, n-2 .. shifted by the row; mirrored from row n on.

    Args:
        num_items: Number of items n.
        row: 0 up to `num_williams_rows(n)`.

    Returns:
        Items by place, each of 0..n-1 once.
    """
    if not 0 <= row < num_williams_rows(num_items):
        raise ValueError(f"row must be below {num_williams_rows(num_items)}, got {row}")
    first = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(num_items)]
    shifted = tuple((item + row) % num_items for item in first)
    return shifted if row < num_items else shifted[::-1]


def _page(study: Study, rater: int, number: int, prompt_index: int, kind: PageKind) -> Page:
    order = _model_order(study, rater, prompt_index)
    if kind == "repeat":
        order = _other_order(study, rater, prompt_index, order)
    elif kind == "attention":
        order = shuffled(order, study.seed, "attention order", rater, number)
    prompt_id = study.prompts[prompt_index].prompt_id
    sizes = {REFERENCES: len(study.reference_set(prompt_id).images)}
    for letter, model in zip(string.ascii_uppercase, order, strict=False):
        sizes[letter] = len(study.image_set(prompt_id, model).images)
    image_orders = {
        letter: shuffled(range(size), study.seed, "images", rater, number, letter)
        for letter, size in sizes.items()
    }
    attention = None
    if kind == "attention":
        attention = Attention(
            string.ascii_uppercase[_draw(len(order), study.seed, "attention letter", rater, number)],
            study.aspects[_draw(len(study.aspects), study.seed, "attention aspect", rater, number)].key,
            _draw(study.highest + 1, study.seed, "attention value", rater, number),
        )
    return Page(number, prompt_id, kind, order, image_orders, attention)


def _prompt_order(study: Study, rater: int) -> tuple[int, ...]:
    num_prompts = len(study.prompts)
    cycle, turn = divmod(rater, num_williams_rows(num_prompts))
    rows = shuffled(range(num_williams_rows(num_prompts)), study.seed, "prompt rows", cycle)
    labels = shuffled(range(num_prompts), study.seed, "prompts", cycle)
    return tuple(labels[item] for item in williams_row(num_prompts, rows[turn]))


def _model_order(study: Study, rater: int, prompt_index: int) -> tuple[str, ...]:
    num_rows = num_williams_rows(len(study.rated))
    block, place = divmod(prompt_index, num_rows)
    cycle, turn = divmod(rater, num_rows)
    starts = shuffled(range(num_rows), study.seed, "model rows", block, cycle)
    return _labelled(study, block, cycle, (starts[place] + turn) % num_rows)


def _labelled(study: Study, block: int, cycle: int, row: int) -> tuple[str, ...]:
    labels = shuffled(study.rated, study.seed, "models", block, cycle)
    return tuple(labels[item] for item in williams_row(len(labels), row))


def _other_order(study: Study, rater: int, prompt_index: int, first: Sequence[str]) -> tuple[str, ...]:
    num_rows = num_williams_rows(len(first))
    block, cycle = prompt_index // num_rows, rater // num_rows
    rows = [_labelled(study, block, cycle, row) for row in range(num_rows)]
    # Of a Latin square all other rows have every model elsewhere; a single model has nowhere to go.
    moved = [row for row in rows if all(one != other for one, other in zip(row, first, strict=True))]
    others = moved or rows
    return others[_draw(len(others), study.seed, "repeat order", rater, prompt_index)]


def _with_repeats(
    study: Study, rater: int, plan: Sequence[tuple[int, PageKind]]
) -> list[tuple[int, PageKind]]:
    num_repeats, num_prompts = study.design.num_repeats, len(plan)
    third = num_prompts // 3
    if num_repeats > third:  # too many to spread: shown again in the same order, after all others
        return [*plan, *((prompt, "repeat") for prompt, _ in plan[:num_repeats])]
    chosen = sorted(shuffled(range(third), study.seed, "repeats", rater)[:num_repeats])
    start = num_prompts - third
    after = {start + (k + 1) * third // num_repeats - 1: plan[i][0] for k, i in enumerate(chosen)}
    whole: list[tuple[int, PageKind]] = []
    for place, planned in enumerate(plan):
        whole.append(planned)
        if place in after:
            whole.append((after[place], "repeat"))
    return whole


def _with_attention(
    study: Study, rater: int, plan: Sequence[tuple[int, PageKind]]
) -> list[tuple[int, PageKind]]:
    whole = list(plan)
    num_attention = study.design.num_attention
    # One per equal stretch of the study, at a drawn place in it; from the back, so that places stay true.
    for stretch in reversed(range(num_attention)):
        start, stop = (len(plan) * (stretch + step) // num_attention for step in (0, 1))
        place = 1 + start + _draw(max(1, stop - start), study.seed, "attention place", rater, stretch)
        place = min(place, len(plan))
        seen = plan[_draw(place, study.seed, "attention prompt", rater, stretch)][0]
        whole.insert(place, (seen, "attention"))
    return whole


def _digest(*key: object) -> bytes:
    return hashlib.sha256("\x1f".join(str(part) for part in key).encode("utf-8")).digest()


def _draw(num: int, *key: object) -> int:
    return int.from_bytes(_digest(*key), "big") % num


def shuffled(items: Sequence[Item], *key: object) -> tuple[Item, ...]:
    """Return items in an order that depends on the key alone, and is the same on every machine."""
    ranked = sorted(range(len(items)), key=lambda place: _digest(*key, place))
    return tuple(items[place] for place in ranked)
