from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from medgen_review.blind_images import ImageNames
from medgen_review.schedule import REFERENCES, Place, pages_for, places_on
from medgen_review.server.answers import FormError, action_of, changes_of
from medgen_review.server.pages import overview, page_view, progress_of, slug_of, slugs_on
from medgen_review.store import Value
from medgen_review.study import Study
from starlette.datastructures import FormData, UploadFile


def view_of(study: Study, number: int = 0, values: Any = None) -> Any:
    pages = pages_for(study, 0)
    return page_view(study, pages, pages[number], values or {}, names=ImageNames(bytes(32)), rater_number=0)


def form_of(study: Study, page: Any, given: Any, *, seen: str = "0", drawn: str = "") -> Any:
    fields: list[tuple[str, str | UploadFile]] = [("action", "page-action")]
    for slug, value in given.items():
        fields += [(f"value-{slug}", value), (f"seen-{slug}", seen), (f"drawn-{slug}", drawn)]
    return changes_of(study, page, FormData(fields))


def test_a_page_shows_the_references_first_then_the_sets_by_letter_with_every_scale(
    make_study: Callable[..., Study],
) -> None:
    study = make_study(num_models=3, images_per_set=10)
    view = view_of(study)
    assert len(view.references.images) == 10
    assert not view.references.scales
    assert [each.letter for each in view.sets] == ["A", "B", "C"]
    assert [[scale.name for scale in each.scales] for each in view.sets] == [
        [aspect.name for aspect in study.aspects]
    ] * 3
    assert [rank.set_name for rank in view.ranks] == ["Set A", "Set B", "Set C", "Real images"]
    assert [list(rank.choices) for rank in view.ranks] == [[1, 2, 3, 4]] * 4
    names = [name for each in (view.references, *view.sets) for name in each.images]
    assert len(set(names)) == 40


def test_the_references_are_not_ranked_where_the_design_says_so(make_study: Callable[..., Study]) -> None:
    view = view_of(make_study(rank_real=False))
    assert not view.ranks_real
    assert [rank.set_name for rank in view.ranks] == ["Set A", "Set B", "Set C"]


def test_every_place_has_a_slug_of_its_own_and_nothing_in_it_but_page_letter_and_number(
    make_study: Callable[..., Study],
) -> None:
    study = make_study(models=("secret.model", "other"))
    pages = pages_for(study, 0)
    slugs = [slug_of(study, place) for page in pages for place in places_on(study, page)]
    assert len(slugs) == len(set(slugs))
    assert set(slugs_on(study, pages[1]).values()) == set(places_on(study, pages[1]))
    assert set("".join(slugs)) <= set("0123456789ABCDEF-realnk")


def test_an_attention_page_asks_for_one_value_and_says_which(make_study: Callable[..., Study]) -> None:
    study = make_study(num_attention=1)
    pages = pages_for(study, 0)
    number = next(page.number for page in pages if page.attention)
    asked = pages[number].attention
    assert asked is not None
    view = view_of(study, number)
    assert [scale.asked for each in view.sets for scale in each.scales] == [True]
    assert not view.ranks
    assert f"set {asked.letter} the value {asked.value} for" in view.attention


def test_values_that_stand_are_shown_with_their_version(make_study: Callable[..., Study]) -> None:
    study = make_study()
    place = Place(0, "B", study.aspects[2].key)
    view = view_of(study, values={place: Value(7, 3, "")})
    scale = view.sets[1].scales[2]
    assert (scale.value, scale.version) == (7, 3)
    assert sum(one.value is not None for each in view.sets for one in each.scales) == 1


def test_a_scale_beyond_twenty_is_typed_not_chosen(make_study: Callable[..., Study]) -> None:
    study = make_study().model_copy(update={"highest": 100})
    assert not view_of(study).sets[0].scales[0].choices


def test_the_overview_counts_what_is_missing_on_each_page(make_study: Callable[..., Study]) -> None:
    study = make_study(num_prompts=3)
    pages = pages_for(study, 0)
    missing = [*places_on(study, pages[1]), places_on(study, pages[2])[0]]
    entries = overview(study, pages, missing)
    assert [each.words for each in entries] == ["complete", "not begun", "1 of 22 missing"]
    assert (progress_of(study, pages, missing).given, progress_of(study, pages, missing).asked) == (43, 66)


def test_of_a_whole_form_only_what_was_changed_since_it_was_drawn_is_an_action(
    make_study: Callable[..., Study],
) -> None:
    study = make_study()
    page = pages_for(study, 0)[0]
    action = form_of(study, page, {"1-A-0": "4", "1-real-rank": "2"})
    assert [(each.letter, each.field, each.value) for each in action.changes] == [
        ("A", study.aspects[0].key, 4),
        (REFERENCES, "rank", 2),
    ]
    assert form_of(study, page, {"1-A-0": "4"}, seen="1", drawn="4").changes == []


def test_the_same_form_is_the_same_action_and_another_value_another(make_study: Callable[..., Study]) -> None:
    study = make_study()
    page = pages_for(study, 0)[0]
    first, again, other = (form_of(study, page, {"1-A-0": value}).action_id for value in ("4", "4", "5"))
    assert first == again != other


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([("slug", "1-A-0"), ("value", "3")], "one or two values"),
        ([("slug", "2-A-0"), ("value", "3"), ("seen", "0"), ("action", "a" * 8)], "no value is asked for"),
        (
            [("slug", "1-A-0"), ("value", "3.5"), ("seen", "0"), ("action", "a" * 8)],
            "whole number, got '3.5'",
        ),
        ([("slug", "1-A-0"), ("value", "-1"), ("seen", "0"), ("action", "a" * 8)], "whole number, got '-1'"),
        ([("slug", "1-A-0"), ("value", "²"), ("seen", "0"), ("action", "a" * 8)], "whole number, got '²'"),
        ([("slug", "1-A-0"), ("value", "3"), ("seen", "0")], "action must come once"),
    ],
)
def test_a_form_that_no_page_sends_is_refused_in_words(
    make_study: Callable[..., Study], fields: Any, words: str
) -> None:
    study = make_study()
    with pytest.raises(FormError, match=words):
        action_of(study, pages_for(study, 0)[0], FormData(fields))


def test_every_input_has_a_name_in_words_and_every_image_a_place(studio: Callable[..., Any]) -> None:
    class Outline(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: Any, attrs: Any) -> None:
            self.tags.append((tag, dict(attrs)))

    at_work = studio()
    outline = Outline()
    outline.feed(at_work.browser(at_work.store.enrol("Ada").token).get("/page/1").text)
    images = [attributes for tag, attributes in outline.tags if tag == "img" and "src" in attributes]
    assert len(images) == 8
    assert all(image["width"] == image["height"] == "48" for image in images)
    links = [attributes["aria-label"] for tag, attributes in outline.tags if attributes.get("data-place")]
    assert len(set(links)) == 8
    radios = [attributes for tag, attributes in outline.tags if attributes.get("type") == "radio"]
    assert len(radios) == 3 * 6 * 11 + 4 * 4
    assert len({radio["id"] for radio in radios}) == len(radios)
    assert sum(tag == "legend" for tag, _ in outline.tags) == 3 * 6 + 4
