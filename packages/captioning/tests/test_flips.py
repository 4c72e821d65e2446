import re

import pytest
from medgen_captioning.clinical_facts import facts_of
from medgen_captioning.flips import Axis, FlipRefusedError, flip_caption, mirror_facts, why_not_flip
from medgen_captioning.measured import place_phrase
from medgen_data.phantoms import draw_facts, phantom_texts

AXES: tuple[Axis, ...] = ("horizontal", "vertical")


@pytest.fixture(scope="module")
def captions(template_prompts: list[str]) -> list[str]:
    phantoms = {text for index in range(64) for text in phantom_texts(draw_facts(index, seed=3))}
    places = [place_phrase((x / 2, y / 2)) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    measured = [f"An endoscopic image of polyps, with a small, round area {place}." for place in places]
    return [*template_prompts, *sorted(phantoms), *measured]


@pytest.mark.parametrize("axis", AXES)
def test_flip_of_flip_is_the_identity(captions: list[str], axis: Axis) -> None:
    for caption in captions:
        assert flip_caption(flip_caption(caption, axis), axis) == caption


@pytest.mark.parametrize("axis", AXES)
def test_facts_of_the_flipped_caption_are_the_mirrored_facts(captions: list[str], axis: Axis) -> None:
    changed = 0
    for caption in captions:
        flipped = flip_caption(caption, axis)
        assert facts_of(flipped) == mirror_facts(facts_of(caption), axis)
        changed += flipped != caption
    assert changed > 200


@pytest.mark.parametrize(
    ("caption", "horizontal", "vertical"),
    [
        ("A polyp in the upper-left.", "A polyp in the upper-right.", "A polyp in the lower-left."),
        (
            "A polyp in the Top Right corner.",
            "A polyp in the Top Left corner.",
            "A polyp in the Bottom Right corner.",
        ),
        ("A polyp on the left side of the frame.", "A polyp on the right side of the frame.", None),
        ("A polyp in the center.", None, None),
        ("A polyp at 2 o'clock.", "A polyp at 10 o'clock.", "A polyp at 4 o'clock."),
        ("A polyp at 12 o'clock.", None, "A polyp at 6 o'clock."),
        ("A polyp smaller than 5 mm, above the lumen.", None, "A polyp smaller than 5 mm, below the lumen."),
        ("An image of an upper GI endoscopy.", None, None),
        ("A tube left in place.", None, None),
    ],
)
def test_only_places_of_the_picture_change(
    caption: str, horizontal: str | None, vertical: str | None
) -> None:
    assert flip_caption(caption, "horizontal") == (horizontal or caption)
    assert flip_caption(caption, "vertical") == (vertical or caption)


def test_the_typo_of_the_data_set_survives_two_flips() -> None:
    start = "Generate an image with an an anatomical landmark located in the "
    assert flip_caption(f"{start}center and lower-rigth.") == f"{start}center and lower-left."
    assert flip_caption(f"{start}center and lower-left.") == f"{start}center and lower-rigth."
    assert flip_caption("An instrument in the lower-left.") == "An instrument in the lower-right."


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("CT scan showing a nodule in the left lung.", "left lung"),
        ("Mammogram of the right breast.", "right breast"),
        ("Fundus photograph, OD.", "right eye"),
        ("Fundus photograph of the left eye.", "left eye"),
        ("Chest X-ray with opacity in the left lower zone.", "left lung"),
        ("Chest X-ray with an effusion on the right side.", "right lung"),
        ("Bilateral pleural effusions.", "both lung"),
        ("Ultrasound of the right upper quadrant.", "right"),
        ("Breast ultrasound with a mass at 2 o'clock.", "2 o'clock breast"),
    ],
)
def test_sides_of_the_body_are_refused_by_name(caption: str, named: str, axis: Axis) -> None:
    reason = why_not_flip(caption, axis)
    assert reason is not None
    assert f"side of the body ({named})" in reason
    with pytest.raises(FlipRefusedError, match=re.escape(named)):
        flip_caption(caption, axis)


def test_a_side_of_the_picture_may_flip_in_radiology_too() -> None:
    assert (
        flip_caption("CT with a marker in the upper left part of the image.")
        == "CT with a marker in the upper right part of the image."
    )
