import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from medgen_data.image_folder import read_image_folder
from medgen_data.images import decode_image
from medgen_data.phantoms import (
    PHANTOM_LABELS,
    QUADRANTS,
    PhantomFacts,
    draw_facts,
    phantom_seed,
    phantom_texts,
    render_phantom,
    write_phantom_dataset,
)
from medgen_data.phantoms.noise import smooth_noise, smooth_noise_slopes
from medgen_data.problems import DataError

SIZE = 64
NUM_SEEN = 320


@pytest.fixture(scope="module")
def phantoms() -> list[tuple[PhantomFacts, np.ndarray]]:
    facts = [draw_facts(index, 0) for index in range(NUM_SEEN)]
    return [(f, render_phantom(f, size=SIZE, seed=phantom_seed(i, 0))) for i, f in enumerate(facts)]


def brightest_quadrant(strength: np.ndarray) -> str:
    """Return the quadrant with the largest sum of a map [S, S]."""
    half = len(strength) // 2
    parts = [strength[:half, :half], strength[:half, half:], strength[half:, :half], strength[half:, half:]]
    return QUADRANTS[int(np.argmax([part.sum() for part in parts]))]


def share_in_quadrant(phantoms: list[tuple[PhantomFacts, np.ndarray]], strength: list[np.ndarray]) -> float:
    hits = [facts.quadrant == brightest_quadrant(s) for (facts, _), s in zip(phantoms, strength, strict=True)]
    return float(np.mean(hits))


def blue_over_red(image: np.ndarray) -> np.ndarray:
    return np.maximum(image[..., 2].astype(float) - image[..., 0], 0)


def test_every_sixteen_phantoms_hold_each_class_in_each_quadrant_once() -> None:
    for block in range(5):
        pairs = Counter((f.label, f.quadrant) for f in (draw_facts(16 * block + i, 7) for i in range(16)))
        assert len(pairs) == len(PHANTOM_LABELS) * len(QUADRANTS)
        assert set(pairs.values()) == {1}


def test_order_differs_between_blocks_and_seeds() -> None:
    def order(seed: int, block: int) -> list[tuple[str, str]]:
        return [(f.label, f.quadrant) for f in (draw_facts(16 * block + i, seed) for i in range(16))]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_all_counts_sizes_and_colours_occur() -> None:
    facts = [draw_facts(index, 0) for index in range(400)]
    assert {f.count for f in facts} == {0, 1, 2, 3}
    assert {f.size for f in facts} == {"none", "<5mm", "5-10mm", "11-20mm", ">20mm"}
    assert {f.colour for f in facts if f.label == "polyps"} == {"pink", "red"}


def test_a_longer_set_begins_with_the_same_bytes(tmp_path: Path) -> None:
    short = write_phantom_dataset(tmp_path / "short", num_images=20, seed=3)
    long = write_phantom_dataset(tmp_path / "long", num_images=40, seed=3)
    for a, b in zip(short.records, long.records[:20], strict=True):
        assert (a.record_id, a.label, a.facts, a.text) == (b.record_id, b.label, b.facts, b.text)
        assert short.image_file(a).read_bytes() == long.image_file(b).read_bytes()


def test_the_same_seed_gives_the_same_data_set_and_another_seed_another(tmp_path: Path) -> None:
    first = write_phantom_dataset(tmp_path / "a", num_images=16, seed=1)
    again = write_phantom_dataset(tmp_path / "b", num_images=16, seed=1)
    other = write_phantom_dataset(tmp_path / "c", num_images=16, seed=2)
    assert first.card.fingerprint == again.card.fingerprint != other.card.fingerprint


def test_a_written_set_is_read_back_whole(tmp_path: Path) -> None:
    written = write_phantom_dataset(tmp_path / "set", num_images=32, size=48, test_fraction=0.25)
    read = read_image_folder(tmp_path / "set")
    assert read.records == written.records
    assert read.card.labels == PHANTOM_LABELS
    assert read.card.modality == "endoscopic"
    assert read.records[17].record_id == "phantom-00017"
    assert Counter(r.label for r in read.select(split="test").records) == dict.fromkeys(PHANTOM_LABELS, 2)
    assert decode_image(read.image_file(read.records[0])).shape == (48, 48, 3)


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty; choose a new folder"):
        write_phantom_dataset(tmp_path, num_images=4)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("size", [32, 65, 128])
def test_pictures_are_rgb_of_the_size_asked_for(size: int) -> None:
    image = render_phantom(draw_facts(0, 0), size=size, seed=0)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_one_seed_gives_one_picture_at_every_size() -> None:
    facts = PhantomFacts("polyps", "upper-left", 1, ">20mm", "red")
    small = render_phantom(facts, size=64, seed=5).astype(float)
    large = render_phantom(facts, size=256, seed=5).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    # The point spread is one of pixels, so the small picture is the softer one.
    assert np.abs(small - large).mean() < 5.0
    assert np.abs(small - render_phantom(facts, size=64, seed=6)).mean() > 10.0


def test_rendering_leaves_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    render_phantom(draw_facts(0, 0), size=32, seed=0)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_blue_lies_in_the_quadrant_of_dyed_polyps_and_nowhere_else(
    phantoms: list[tuple[PhantomFacts, np.ndarray]],
) -> None:
    dyed = [(f, image) for f, image in phantoms if f.label == "dyed lifted polyps"]
    assert share_in_quadrant(dyed, [blue_over_red(image) for _, image in dyed]) == 1.0
    others = [blue_over_red(image).sum() for f, image in phantoms if f.label != "dyed lifted polyps"]
    assert max(others) < 0.2 * min(blue_over_red(image).sum() for _, image in dyed)


def test_red_lies_in_the_quadrant_of_colitis_and_of_red_polyps(
    phantoms: list[tuple[PhantomFacts, np.ndarray]],
) -> None:
    red = [(f, image) for f, image in phantoms if f.colour == "red"]
    redness = []
    for _, image in red:
        lit = image[..., 0] > 90
        share = image[..., 0] / np.maximum(image.sum(axis=2, dtype=float), 1)
        redness.append(np.where(lit, np.maximum(share - np.quantile(share[lit], 0.9), 0), 0))
    assert share_in_quadrant(red, redness) >= 0.95


def test_the_darkest_place_of_normal_mucosa_is_its_lumen(
    phantoms: list[tuple[PhantomFacts, np.ndarray]],
) -> None:
    normal = [(f, image) for f, image in phantoms if f.label == "normal mucosa"]
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    inside = (np.hypot(rows, columns) < 0.8 * SIZE / 2) & (np.minimum(abs(rows), abs(columns)) > 2)
    darkness = [np.where(inside, np.maximum(80.0 - image[..., 0], 0), 0) for _, image in normal]
    assert all(d.sum() > 0 for d in darkness)
    assert share_in_quadrant(normal, darkness) == 1.0


@pytest.mark.parametrize("label", ["polyps", "ulcerative colitis", "dyed lifted polyps"])
def test_larger_findings_change_more_pixels(label: str) -> None:
    colour = "blue" if label.startswith("dyed") else "red"

    def changed(size: str) -> float:
        # The stream of the background does not depend on the size, so the pictures differ in the finding.
        facts = PhantomFacts(label, "lower-left", 1, size, colour)
        clean = np.stack([render_phantom(facts, size=64, seed=s) for s in range(6)]).astype(float)
        tiny = PhantomFacts(label, "lower-left", 1, "<5mm", colour)
        least = np.stack([render_phantom(tiny, size=64, seed=s) for s in range(6)])
        return float(np.abs(clean - least).sum())

    sizes = [changed(size) for size in ("<5mm", "5-10mm", "11-20mm", ">20mm")]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0.0 < sizes[1]


def test_class_and_quadrant_are_easy_to_tell_from_coarse_thumbnails(
    phantoms: list[tuple[PhantomFacts, np.ndarray]],
) -> None:
    # A nearest class mean on 8x8 thumbnails: whatever is learnable must be coarse.
    thumbnails = np.stack([i.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).ravel() for _, i in phantoms])
    cells = np.array([f"{f.label}, {f.quadrant}" for f, _ in phantoms])
    train, test = slice(0, 240), slice(240, NUM_SEEN)
    names = np.unique(cells)
    means = np.stack([thumbnails[train][cells[train] == name].mean(axis=0) for name in names])
    distances = ((thumbnails[test][:, None] - means) ** 2).sum(axis=2)
    assert float(np.mean(names[distances.argmin(axis=1)] == cells[test])) > 0.6


def test_smooth_noise_has_unit_variance_and_exact_slopes() -> None:
    draws = np.stack([smooth_noise(np.random.default_rng(s), 9, 48) for s in range(60)])
    assert draws.std() == pytest.approx(1.0, abs=0.08)
    field, slope_x, slope_y = smooth_noise_slopes(np.random.default_rng(0), 5, 512)
    assert field.dtype == slope_x.dtype == np.float32
    numeric_y, numeric_x = np.gradient(field.astype(float), 2 / 512)
    inside = slice(2, -2)
    np.testing.assert_allclose(slope_x[inside, inside], numeric_x[inside, inside], atol=0.02)
    np.testing.assert_allclose(slope_y[inside, inside], numeric_y[inside, inside], atol=0.02)


def test_too_few_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels, got 16"):
        render_phantom(draw_facts(0, 0), size=16, seed=0)


def test_the_first_text_names_class_and_quadrant() -> None:
    assert phantom_texts(PhantomFacts("polyps", "upper-left", 1, "<5mm", "pink"))[0] == (
        "Generate an image containing a polyp located in the upper-left."
    )
    assert phantom_texts(PhantomFacts("dyed lifted polyps", "upper-right", 3, "<5mm", "blue"))[0] == (
        "Generate an image containing 3 dyed lifted polyps located in the upper-right."
    )
    assert phantom_texts(PhantomFacts("ulcerative colitis", "lower-left", 2, "5-10mm", "red"))[0] == (
        "Generate an image containing ulcerative colitis located in the lower-left."
    )
    assert phantom_texts(PhantomFacts("normal mucosa", "lower-right", 0, "none", "pink"))[0] == (
        "Generate an image of normal mucosa with the lumen located in the lower-right."
    )


def test_every_text_is_true_of_its_facts_and_grammatical() -> None:
    for index in range(200):
        facts = draw_facts(index, 11)
        texts = phantom_texts(facts)
        assert len(set(texts)) == len(texts) >= 4
        for text in texts:
            assert re.fullmatch(r"Generate an image [^.]+\.", text)
            for quadrant in re.findall(r"(?:upper|lower)-(?:left|right)", text):
                assert quadrant == facts.quadrant
            for number in re.findall(r"\b(\d) (?:findings?|polyps|dyed|ulcers)", text):
                assert int(number) == facts.count
            for size in re.findall(r"of size (\S+)\.", text):
                assert size == facts.size
            for colour in re.findall(r"color (\w+)", text):
                assert colour == facts.colour
            assert ("polyp" in text) <= ("polyp" in facts.label or "no polyps" in text)
            assert ("no polyps" in text) <= ("polyp" not in facts.label)
            assert ("abnormality" in text or "ulcer" in text) <= (facts.count > 0)
            assert not re.search(r"\b1 (findings|polyps|ulcers)\b|\ba [aeiou]|\ban [^aeiou]", text)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (("polyp", "upper-left", 1, "<5mm", "pink"), "label must be one of"),
        (("polyps", "top", 1, "<5mm", "pink"), "quadrant must be one of"),
        (("polyps", "upper-left", 0, "<5mm", "pink"), "count and size of polyps"),
        (("polyps", "upper-left", 3, ">20mm", "pink"), "count and size of polyps"),
        (("normal mucosa", "upper-left", 1, "<5mm", "pink"), "count and size of normal mucosa"),
        (("polyps", "upper-left", 1, "<5mm", "blue"), "colour of polyps must be one of"),
    ],
)
def test_impossible_facts_are_refused(facts: tuple[str, str, int, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomFacts(*facts)
