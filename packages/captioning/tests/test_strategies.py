import pytest
from medgen_captioning.paraphrasing.strategies import (
    ImageText,
    ParaphraseConfig,
    ParaphraseRow,
    add,
    apply_strategy,
    draw_text,
    pair,
    replace_all,
    replace_random,
)
from pydantic import ValidationError

ROWS = [ParaphraseRow(f"{index}.jpg", f"prompt {index}", f"paraphrase {index}") for index in range(1000)]


def test_add_has_every_image_twice_with_both_texts() -> None:
    texts = add(ROWS)
    assert len(texts) == 2 * len(ROWS)
    assert set(texts) == {ImageText(r.file_name, t) for r in ROWS for t in (r.prompt, r.paraphrase)}


def test_replace_all_keeps_the_number_of_images_and_no_prompt() -> None:
    assert replace_all(ROWS) == [ImageText(row.file_name, row.paraphrase) for row in ROWS]


def test_replace_random_replaces_its_share_and_only_texts() -> None:
    texts = replace_random(ROWS, 0.3, seed=5)
    assert [text.file_name for text in texts] == [row.file_name for row in ROWS]
    replaced = sum(text.text == row.paraphrase for text, row in zip(texts, ROWS, strict=True))
    kept = sum(text.text == row.prompt for text, row in zip(texts, ROWS, strict=True))
    assert replaced + kept == len(ROWS)
    assert 230 < replaced < 370  # five standard deviations of a binomial


def test_replace_random_depends_on_the_seed_alone() -> None:
    assert replace_random(ROWS, 0.5, seed=1) == replace_random(ROWS, 0.5, seed=1)
    assert replace_random(ROWS, 0.5, seed=1) != replace_random(ROWS, 0.5, seed=2)


def test_replace_random_at_its_ends_is_keeping_and_replacing_all() -> None:
    assert replace_random(ROWS, 0, seed=0) == apply_strategy(ROWS, ParaphraseConfig(), seed=0)
    assert replace_random(ROWS, 1, seed=0) == replace_all(ROWS)


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999])
def test_a_dropped_context_is_never_replaced(draw: float) -> None:
    assert draw_text(ROWS[0], 1.0, draw, context_dropped=True) == ""
    assert draw_text(ROWS[0], 1.0, draw, context_dropped=False) == "paraphrase 0"


def test_probability_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability must be from 0 to 1, got 1\.5"):
        draw_text(ROWS[0], 1.5, 0.1, context_dropped=False)


@pytest.mark.parametrize(
    "fields",
    [{"strategy": "replace_random"}, {"strategy": "add", "probability": 0.5}, {"strategy": "none", "p": 1}],
)
def test_a_config_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"probability|Extra inputs"):
        ParaphraseConfig.model_validate(fields)


def test_each_strategy_of_the_config_is_applied() -> None:
    assert apply_strategy(ROWS, ParaphraseConfig(strategy="add"), seed=0) == add(ROWS)
    assert apply_strategy(ROWS, ParaphraseConfig(strategy="replace_all"), seed=0) == replace_all(ROWS)
    drawn = apply_strategy(ROWS, ParaphraseConfig(strategy="replace_random", probability=0.5), seed=7)
    assert drawn == replace_random(ROWS, 0.5, seed=7)


def test_images_of_one_prompt_take_different_paraphrases_as_long_as_they_last() -> None:
    images = [ImageText(f"{index}.jpg", "p") for index in range(5)]
    rows, without = pair([*images, ImageText("x.jpg", "q")], {"p": ["a", "b", "c"]}, seed=0)
    assert [row.file_name for row in rows] == [image.file_name for image in images]
    assert sorted(row.paraphrase for row in rows[:3]) == ["a", "b", "c"]
    assert without == [ImageText("x.jpg", "q")]


def test_more_paraphrases_than_images_are_all_dealt_out_on_demand() -> None:
    images = [
        ImageText("a.jpg", "one polyp"),
        ImageText("b.jpg", "one polyp"),
        ImageText("c.jpg", "no polyp"),
    ]
    paraphrases = {"one polyp": [f"polyp {i}" for i in range(5)], "no polyp": ["nothing"]}
    rows, without = pair(images, paraphrases, seed=3, all_of_them=True)
    assert not without
    assert [row.file_name for row in rows] == ["a.jpg"] * 3 + ["b.jpg"] * 2 + ["c.jpg"]
    assert sorted(row.paraphrase for row in rows if row.prompt == "one polyp") == paraphrases["one polyp"]
    one_each, _ = pair(images, paraphrases, seed=3)
    assert one_each == [rows[0], rows[3], rows[5]]
    assert len(add(rows)) == 3 + 6  # every prompt once, every paraphrase once
