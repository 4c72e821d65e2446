import re

import numpy as np
import pytest
from medgen_captioning.measured import measured_caption, place_phrase
from medgen_data.image_folder import ImageDataset
from medgen_data.images import decode_image
from medgen_data.records import ImageRecord

Captions = list[tuple[ImageRecord, str]]


@pytest.fixture(scope="module")
def captions(phantoms: ImageDataset) -> Captions:
    return [
        (record, measured_caption(decode_image(phantoms.image_file(record)), "endoscopic", record.label))
        for record in phantoms.records
    ]


def skin(*, patch: tuple[int, int, int] | None = None, row: int = 60, column: int = 85) -> np.ndarray:
    """Return even skin with or without a round patch, [120, 160, 3] uint8."""
    noise = np.random.default_rng(0).normal(0, 2, (120, 160, 3))
    image = np.clip(np.array([230, 190, 180]) + noise, 0, 255).astype(np.uint8)
    if patch is not None:
        rows, columns = np.mgrid[:120, :160]
        image[np.hypot(rows - row, columns - column) < 24] = patch
    return image


def test_every_caption_has_the_opening_and_fewer_than_a_hundred_words(captions: Captions) -> None:
    for record, caption in captions:
        assert caption.startswith(f"An endoscopic image of {record.label}, with ")
        assert caption.endswith(".")
        assert 15 < len(caption.split()) < 100


def test_measured_place_is_the_known_quadrant(captions: Captions) -> None:
    findings = [(r, c) for r, c in captions if r.facts["count"]]
    hits = [f"in the {record.facts['quadrant']} quadrant" in caption for record, caption in findings]
    assert len(findings) == 120
    assert np.mean(hits) >= 0.9


def test_a_place_that_is_claimed_is_seldom_wrong(captions: Captions) -> None:
    claimed = [(r, re.search(r"in the (\S+) quadrant", c)) for r, c in captions]
    right = [match.group(1) == record.facts["quadrant"] for record, match in claimed if match]
    assert np.mean(right) >= 0.95


def test_dyed_polyps_and_only_they_are_blue(captions: Captions) -> None:
    blue = {True: [], False: []}
    for record, caption in captions:
        bluish = re.search(r"predominantly \w*[ -]?blu", caption) is not None
        blue[record.label == "dyed lifted polyps"].append(bluish)
    assert np.mean(blue[True]) >= 0.9
    assert np.mean(blue[False]) == 0.0


def test_red_findings_are_called_red_and_colitis_is_rougher_than_polyps(captions: Captions) -> None:
    red = [
        "red" in caption.split("predominantly")[1].split(".")[0]
        for r, caption in captions
        if r.facts["colour"] == "red"
    ]
    assert np.mean(red) >= 0.9

    def rough(label: str) -> float:
        return float(np.mean(["smooth" not in caption for r, caption in captions if r.label == label]))

    assert rough("ulcerative colitis") > rough("polyps") + 0.2


def test_normal_mucosa_mostly_has_no_distinct_area_and_its_lumen_is_found(captions: Captions) -> None:
    normal = [(r, c) for r, c in captions if r.label == "normal mucosa"]
    assert np.mean(["no area of clearly different color" in caption for _, caption in normal]) >= 0.7
    lumen = [f"lumen lies in the {r.facts['quadrant']} quadrant" in caption for r, caption in normal]
    assert np.mean(lumen) >= 0.6


def test_the_same_image_gives_the_same_caption(phantoms: ImageDataset) -> None:
    image = decode_image(phantoms.image_file(phantoms.records[0]))
    assert measured_caption(image, "endoscopic", "polyps") == measured_caption(
        image.copy(), "endoscopic", "polyps"
    )


def test_a_dark_round_patch_on_skin_is_described() -> None:
    caption = measured_caption(skin(patch=(80, 50, 40)), "dermoscopic", "melanocytic nevus")
    assert caption.startswith(
        "A dermoscopic image of melanocytic nevus, with a medium-sized, round patch in the center,"
    )
    assert "predominantly dark brown." in caption
    assert "Its outline is symmetric, its border well-defined." in caption
    assert "Its texture is smooth." in caption


def test_a_patch_elsewhere_is_placed_elsewhere() -> None:
    caption = measured_caption(skin(patch=(80, 50, 40), row=35, column=120), "dermoscopic", "nevus")
    assert "in the upper-right quadrant" in caption


def test_even_skin_is_said_to_be_even() -> None:
    assert "no patch of clearly different color" in measured_caption(skin(), "dermoscopic", "healthy skin")


def test_black_images_claim_nothing() -> None:
    black = np.zeros((64, 64, 3), dtype=np.uint8)
    assert (
        measured_caption(black, "endoscopic", None)
        == "An endoscopic image, too dark or too bright to show any detail."
    )


def test_sentences_are_dropped_whole_to_keep_the_limit() -> None:
    image = skin(patch=(80, 50, 40))
    whole = measured_caption(image, "dermoscopic", "nevus")
    short = measured_caption(image, "dermoscopic", "nevus", max_words=20)
    assert whole.startswith(short)
    assert short.endswith(".")
    assert len(short.split()) <= 20 < len(whole.split())
    assert measured_caption(image, "dermoscopic", "nevus", max_words=6) == "A dermoscopic image of nevus"


@pytest.mark.parametrize(
    ("place", "phrase"),
    [
        ((-0.5, -0.5), "in the upper-left quadrant"),
        ((0.5, -0.2), "in the upper-right quadrant"),
        ((0.05, 0.6), "in the lower-center"),
        ((-0.6, 0.0), "in the center-left"),
        ((0.1, -0.1), "in the center"),
    ],
)
def test_places_have_names(place: tuple[float, float], phrase: str) -> None:
    assert place_phrase(place) == phrase
