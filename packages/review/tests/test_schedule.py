import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from medgen_review.schedule import (
    REFERENCES,
    image_at,
    num_williams_rows,
    pages_for,
    places_on,
    ranked_letters,
    value_range,
    williams_row,
)
from medgen_review.study import RANK, REAL, Design, Study

MakeStudy = Callable[..., Study]


def binomial_band(num: int, probability: float) -> tuple[float, float]:
    """Normal band of 99% around the expected count."""
    half = 2.576 * math.sqrt(num * probability * (1 - probability))
    return num * probability - half, num * probability + half


@pytest.mark.parametrize("num_items", [1, 2, 3, 4, 5, 8, 26])
def test_a_williams_square_has_every_item_at_every_place_and_after_every_other_equally_often(
    num_items: int,
) -> None:
    rows = [williams_row(num_items, row) for row in range(num_williams_rows(num_items))]
    places = Counter((place, item) for row in rows for place, item in enumerate(row))
    assert set(places.values()) == {len(rows) // num_items}
    assert len(places) == num_items**2
    followers = Counter(pair for row in rows for pair in pairwise(row))
    assert len(followers) == num_items * (num_items - 1)
    assert len(set(followers.values())) <= 1


def test_in_a_thousand_sessions_each_model_is_at_each_place_within_the_binomial_band(
    make_study: MakeStudy,
) -> None:
    study = make_study(num_prompts=40, num_models=3, images_per_set=1, num_repeats=4, num_attention=2)
    overall: Counter[tuple[str, int]] = Counter()
    by_prompt: Counter[tuple[str, str, int]] = Counter()
    by_time: Counter[tuple[str, int]] = Counter()
    letters_of_repeats: Counter[tuple[str, int]] = Counter()
    for rater in range(1000):
        session: Counter[tuple[str, int]] = Counter()
        time = 0
        for page in pages_for(study, rater):
            for place, model in enumerate(page.order):
                if page.kind == "study":
                    session[model, place] += 1
                    by_prompt[page.prompt_id, model, place] += 1
                elif page.kind == "repeat":
                    letters_of_repeats[model, place] += 1
            if page.kind == "study":
                by_time[page.prompt_id, time] += 1
                time += 1
        low, high = binomial_band(40, 1 / 3)
        assert all(low <= session[model, place] <= high for model in study.models for place in range(3))
        overall += session
    for counts, num, probability in (
        (overall, 40_000, 1 / 3),
        (by_prompt, 1000, 1 / 3),
        (by_time, 1000, 1 / 40),
        (letters_of_repeats, 4000, 1 / 3),
    ):
        low, high = binomial_band(num, probability)
        assert low <= min(counts.values()) <= max(counts.values()) <= high
    assert (len(overall), len(by_prompt), len(by_time)) == (9, 360, 1600)


@pytest.mark.parametrize(("num_models", "hidden_real"), [(2, False), (3, False), (3, True), (4, True)])
def test_whole_squares_are_balanced_exactly_for_each_rater_and_each_prompt(
    make_study: MakeStudy, num_models: int, hidden_real: bool
) -> None:
    num_rated = num_models + hidden_real
    rows = num_williams_rows(num_rated)
    study = make_study(num_prompts=2 * rows, num_models=num_models, images_per_set=1, hidden_real=hidden_real)
    sessions = [pages_for(study, rater) for rater in range(rows)]
    for session in sessions:
        counts = Counter((model, place) for page in session for place, model in enumerate(page.order))
        assert set(counts.values()) == {2 * rows // num_rated}
    for prompt in study.prompts:
        orders = [
            page.order for session in sessions for page in session if page.prompt_id == prompt.prompt_id
        ]
        assert (
            len(set(orders)) == rows
        )  # every row of the square once: each model at each place, after each other
        assert set(Counter((m, place) for order in orders for place, m in enumerate(order)).values()) == {
            rows // num_rated
        }


def test_over_as_many_raters_as_prompts_each_prompt_is_at_each_time_once(make_study: MakeStudy) -> None:
    study = make_study(num_prompts=8, images_per_set=1)
    times = Counter((page.prompt_id, page.number) for rater in range(8) for page in pages_for(study, rater))
    assert len(times) == 64
    assert set(times.values()) == {1}


def test_the_order_is_the_same_on_every_machine(make_study: MakeStudy) -> None:
    study = make_study(num_prompts=6, images_per_set=3, seed=7, num_repeats=1)
    first = pages_for(study, 5)
    assert first == pages_for(study, 5)
    # Written down once: a study that began must go on alike under another Python or operating system.
    assert [(page.prompt_id, "".join(model[-1] for model in page.order)) for page in first] == [
        ("p003", "102"),
        ("p004", "021"),
        ("p002", "012"),
        ("p000", "210"),
        ("p005", "201"),
        ("p001", "120"),
        ("p004", "210"),
    ]
    assert first[0].image_orders == {"": (2, 1, 0), "A": (1, 0, 2), "B": (1, 2, 0), "C": (2, 1, 0)}
    assert first != pages_for(study, 4)
    assert first != pages_for(make_study(num_prompts=6, images_per_set=3, seed=8, num_repeats=1), 5)


@pytest.mark.parametrize("num_prompts", [1, 2, 3, 7, 12, 40])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.34, 1.0])
def test_repeats_come_at_least_a_third_later_with_every_model_under_another_letter(
    make_study: MakeStudy, num_prompts: int, share: float
) -> None:
    num_repeats = math.ceil(share * num_prompts)
    study = make_study(num_prompts=num_prompts, images_per_set=2, num_repeats=num_repeats)
    for rater in range(8):
        pages = pages_for(study, rater)
        first = {page.prompt_id: page for page in pages if page.kind == "study"}
        repeats = [page for page in pages if page.kind == "repeat"]
        assert len({page.prompt_id for page in repeats}) == len(repeats) == num_repeats
        assert [page.number for page in pages] == list(range(num_prompts + num_repeats))
        for page in repeats:
            assert page.number - first[page.prompt_id].number >= max(1, num_prompts // 3)
            assert all(
                one != other for one, other in zip(page.order, first[page.prompt_id].order, strict=True)
            )


def test_repeats_change_over_raters(make_study: MakeStudy) -> None:
    study = make_study(num_prompts=12, images_per_set=1, num_repeats=2)
    repeated = Counter(
        p.prompt_id for rater in range(600) for p in pages_for(study, rater) if p.kind == "repeat"
    )
    low, high = binomial_band(1200, 1 / 12)
    assert low <= min(repeated.values()) <= max(repeated.values()) <= high


@pytest.mark.parametrize("num_attention", [1, 3, 20])
def test_attention_pages_ask_for_one_possible_value_of_a_prompt_seen_before(
    make_study: MakeStudy, num_attention: int
) -> None:
    study = make_study(num_prompts=9, images_per_set=1, num_attention=num_attention, num_repeats=2)
    asked = set()
    for rater in range(30):
        pages = pages_for(study, rater)
        found = [page for page in pages if page.attention is not None]
        assert len(found) == num_attention
        for page in found:
            assert page.kind == "attention"
            assert page.attention is not None
            assert page.prompt_id in {before.prompt_id for before in pages[: page.number]}
            assert places_on(study, page) == ((page.number, page.attention.letter, page.attention.aspect),)
            assert ranked_letters(study, page) == ()
            asked.add(page.attention)
            assert 0 <= page.attention.value <= study.highest
    assert len(asked) > 10


def test_attention_pages_are_spread_over_the_study(make_study: MakeStudy) -> None:
    study = make_study(num_prompts=30, images_per_set=1, num_attention=3)
    for rater in range(20):
        numbers = [page.number for page in pages_for(study, rater) if page.kind == "attention"]
        assert numbers[0] <= 10 < numbers[1] <= 21 < numbers[2]


def test_a_page_asks_for_all_aspects_and_a_ranking_with_the_references(make_study: MakeStudy) -> None:
    study = make_study(num_prompts=2, num_models=3, images_per_set=1)
    page = pages_for(study, 0)[1]
    places = places_on(study, page)
    assert len(places) == len(set(places)) == 3 * len(study.aspects) + 4
    assert [place.letter for place in places if place.field == RANK] == ["A", "B", "C", REFERENCES]
    assert value_range(study, page, RANK) == (1, 4)
    assert value_range(study, page, study.aspects[0].key) == (0, 10)


def test_hidden_real_images_have_a_letter_and_stand_for_the_references_in_the_ranking(
    make_study: MakeStudy,
) -> None:
    study = make_study(num_prompts=2, num_models=2, images_per_set=1, hidden_real=True)
    page = pages_for(study, 0)[0]
    assert REAL in page.order
    assert page.model_of(page.letter_of(REAL)) == REAL == page.model_of(REFERENCES)
    assert ranked_letters(study, page) == ("A", "B", "C")


def test_without_rank_real_the_references_are_not_ranked(make_study: MakeStudy) -> None:
    study = make_study(num_models=2, images_per_set=1, rank_real=False)
    assert ranked_letters(study, pages_for(study, 0)[0]) == ("A", "B")


def test_every_image_of_a_set_is_shown_once_in_an_order_of_its_own(make_study: MakeStudy) -> None:
    study = make_study(num_prompts=4, images_per_set=6)
    orders = set()
    for page in pages_for(study, 0):
        for letter in (*page.letters, REFERENCES):
            shown = [image_at(study, page, letter, index) for index in range(6)]
            whole = (
                study.reference_set(page.prompt_id)
                if letter == REFERENCES
                else study.image_set(page.prompt_id, page.model_of(letter))
            )
            assert sorted(shown, key=str) == sorted(whole.images, key=str)
            orders.add(page.image_orders[letter])
    assert len(orders) > 10


def test_letters_and_models_that_are_not_on_the_page_are_refused(make_study: MakeStudy) -> None:
    study = make_study(num_models=2, images_per_set=2)
    page = pages_for(study, 0)[0]
    with pytest.raises(KeyError, match="page 0 has no set 'C'; it has A, B"):
        page.model_of("C")
    with pytest.raises(KeyError, match="page 0 has no set of 'nobody'"):
        page.letter_of("nobody")
    with pytest.raises(KeyError, match="set 'A': no image 2; it has 2"):
        image_at(study, page, "A", 2)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        pages_for(study, -1)
    with pytest.raises(ValueError, match="below 6, got 6"):
        williams_row(3, 6)


def test_a_single_model_can_be_studied(make_study: MakeStudy) -> None:
    study = make_study(num_models=1, num_prompts=3, images_per_set=1, num_repeats=1)
    assert {page.order for page in pages_for(study, 0)} == {study.models}


def test_designs_are_checked(make_study: MakeStudy) -> None:
    with pytest.raises(ValueError, match="num_repeats must be at most the 2 prompts, got 3"):
        make_study(num_prompts=2, num_repeats=3)
    assert Design().rank_real
