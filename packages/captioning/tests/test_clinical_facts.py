import csv
import itertools
import os
from pathlib import Path

import pytest
from medgen_captioning.clinical_facts import (
    ZONES,
    ClinicalFacts,
    Count,
    Statement,
    accepts,
    difference,
    facts_of,
)
from medgen_captioning.clinical_facts.corruptions import corruptions
from medgen_data.phantoms import PhantomFacts, phantom_texts

FAITHFUL = Path(__file__).parent / "data" / "faithful_paraphrases.csv"
# Written in three rounds after the reader was done with those above; what a round found was mended before the
# next. Refused at first sight: 5 of 156, 5 of 56 (unusual on purpose), 1 of 58.
HELD_OUT = Path(__file__).parent / "data" / "faithful_paraphrases_held_out.csv"


def faithful_pairs(source: Path = FAITHFUL) -> list[tuple[str, str]]:
    with source.open(encoding="utf-8", newline="") as file:
        return [(row["Prompt"], row["Paraphrase"]) for row in csv.DictReader(file)]


def only(sentence: str) -> Statement:
    (statement,) = facts_of(sentence).statements
    return statement


@pytest.mark.parametrize(
    ("sentence", "entity"),
    [
        ("Generate an image containing a polyp.", "polyp"),
        ("Generate an image containing oesophagitis.", "oesophagitis"),
        ("An endoscopic image of esophagitis", "oesophagitis"),
        ("Generate an image containing barretts.", "barrett's oesophagus"),
        ("Generate an image containing polyp snare.", "polyp snare"),
        ("Generate an image containing a green/black box artefact.", "box artefact"),
        ("A squamo-columnar junction.", "z-line"),
        ("An endoscopic image of dyed lifted polyps", "dyed lifted polyp"),
        ("A dermoscopic image of melanocytic nevi", "nevus"),
    ],
)
def test_names_and_their_synonyms_give_one_entity(sentence: str, entity: str) -> None:
    assert only(sentence).entity == entity
    assert only(sentence).present


@pytest.mark.parametrize(
    "sentence",
    [
        "no polyps",
        "not containing a polyp",
        "an absence of polyps",
        "free of polyps",
        "without any polyps",
        "a polyp-free image",
        "Polyps are not visible in the image.",
        "Polyps should be absent.",
        "There aren't any polyps.",
        "0 polyps",
        "zero polyps",
        "not a single polyp",
        "lacking polyps",
        "devoid of polyps",
        "The image does not show a polyp.",
    ],
)
def test_every_way_of_negation_makes_the_polyp_absent(sentence: str) -> None:
    assert only(sentence) == Statement("polyp", present=False)


@pytest.mark.parametrize(
    "sentence", ["a polyp", "not free of polyps", "not without a polyp", "Polyps are not absent."]
)
def test_two_negations_affirm(sentence: str) -> None:
    assert only(sentence).present


def test_a_negation_ends_where_something_else_begins() -> None:
    facts = facts_of("An image with no polyps and 2 instruments, but without text, and a tube.")
    present = {statement.entity: statement.present for statement in facts.statements}
    assert present == {"polyp": False, "instrument": True, "text": False, "tube": True}


def test_a_negation_covers_a_whole_list() -> None:
    facts = facts_of("An image without polyps, instruments or text.")
    assert [statement.present for statement in facts.statements] == [False, False, False]


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("1 polyp", Count(1, 1, explicit=True)),
        ("a single polyp", Count(1, 1, explicit=True)),
        ("a polyp", Count(1, 1, explicit=False)),
        ("sixteen polyps", Count(16, 16, explicit=True)),
        ("a pair of polyps", Count(2, 2, explicit=True)),
        ("at least 2 polyps", Count(2, None, explicit=True)),
        ("2-3 polyps", Count(2, 3, explicit=True)),
        ("several polyps", Count(2, None, explicit=True)),
        ("polyps", Count(2, None, explicit=False)),
        ("The number of polyps is four.", Count(4, 4, explicit=True)),
        ("one image showing 2 polyps", Count(2, 2, explicit=True)),
        ("a pair of biopsy forceps", None),
        ("biopsy forceps", None),
        ("tube", None),
    ],
)
def test_counts_in_digits_words_articles_and_plurals(sentence: str, count: Count | None) -> None:
    assert only(sentence).count == count


@pytest.mark.parametrize(
    ("sentence", "sizes"),
    [
        ("a polyp of size < 5mm", {"<5mm"}),
        ("a polyp smaller than five millimetres", {"<5mm"}),
        ("a sub-5 mm polyp", {"<5mm"}),
        ("a polyp between 5 and 10 mm", {"5-10mm"}),
        ("a 5-to-10-millimeter polyp", {"5-10mm"}),
        ("a polyp of more than 2 cm", {">20mm"}),
        ("polyps of size < 5mm, 5-10mm and 11-20mm", {"<5mm", "5-10mm", "11-20mm"}),
        ("polyps of less than 5 and 5-10 mm", {"<5mm", "5-10mm"}),
        ("a small polyp, under 5 mm", {"<5mm"}),
        ("a large polyp, under 5 mm", {"<5mm", "large"}),
        ("a large polyp", {"large"}),
    ],
)
def test_sizes_are_read_as_classes(sentence: str, sizes: set[str]) -> None:
    assert only(sentence).sizes == sizes
    assert facts_of(sentence).numbers == frozenset()


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ("in the upper-left", {"upper-left"}),
        ("in the top left corner of the image", {"upper-left"}),
        ("in the center and lower-rigth", {"center", "lower-right"}),
        ("in the middle left and at the bottom centre", {"center-left", "lower-center"}),
        ("in the upper and lower left", {"upper-left", "lower-left"}),
        ("in the upper-left and right", {"upper-left", "upper-right"}),
        ("on the left side of the frame", {"left"}),
        ("in the upper third", {"upper-left", "upper-center", "upper-right"}),
        ("throughout the image", set(ZONES)),
        ("in all zones except the lower-left", set(ZONES) - {"lower-left"}),
    ],
)
def test_places_are_zones_of_the_picture(words: str, places: set[str]) -> None:
    assert only(f"An abnormality {words}.").places == places


@pytest.mark.parametrize("name", ["ip", "is", "iia"])
def test_paris_types_are_told_from_the_verb_is(name: str) -> None:
    for sentence in (f"A polyp of type paris {name}.", f"The polyp is classified as Paris {name.title()}."):
        assert only(sentence).types == {name}
    assert only("The Paris type of the polyp is Ip.").types == {"ip"}
    assert only("A polyp is visible.").types == frozenset()


def test_attributes_belong_to_their_own_thing() -> None:
    facts = facts_of("An image with a red polyp in the upper-left and a white ulcer in the lower-right.")
    polyp, ulcer = facts.statement("polyp"), facts.statement("ulcer")
    assert polyp is not None
    assert ulcer is not None
    assert (set(polyp.colours), set(polyp.places)) == ({"red"}, {"upper-left"})
    assert (set(ulcer.colours), set(ulcer.places)) == ({"white"}, {"lower-right"})


@pytest.mark.parametrize(
    ("sentence", "sides"),
    [
        ("CT showing a mass in the left lung", {("left", "lung")}),
        ("Fundus photograph, OD", {("right", "eye")}),
        ("MLO view of the right breast", {("right", "breast")}),
        ("bilateral pleural effusions", {("both", "lung")}),
        ("Chest X-ray: effusion on the left side", {("left", "lung")}),
        ("Chest X-ray with opacity in the left lower zone", {("left", "lung")}),
        ("CT of chest and abdomen: after the scan, an effusion on the left side", {("left", "")}),
        ("The catheter was left in place.", set()),
        ("A polyp on the left side of the image", set()),
        ("A polyp in the upper-left quadrant", set()),
    ],
)
def test_sides_of_the_body_are_not_sides_of_the_picture(sentence: str, sides: set[tuple[str, str]]) -> None:
    assert facts_of(sentence).sides == sides


def test_radiology_sentences_give_findings_sizes_and_directions() -> None:
    facts = facts_of("Axial CT of the chest shows a 2.17 cm nodule in the right upper lobe, no effusion.")
    assert facts.procedures == {"ct"}
    assert facts.sides == {("right", "lobe")}
    assert facts.structures == {"lung", "lobe"}
    assert facts.qualifiers == {"axial"}
    assert facts.statements == (
        Statement("effusion", present=False),
        Statement("nodule", count=Count(1, 1, explicit=False), sizes=frozenset(["21.7mm"])),
    )


def test_sentences_without_anything_clinical_must_keep_most_of_their_words() -> None:
    original = "Vessel is straightened with two floppy guidewires."
    assert facts_of("") == ClinicalFacts()
    assert accepts("Bright scaffold rods.", "Bright scaffold rods, enlarged.").accepted
    reasons = accepts("Bright scaffold rods.", "A quiet afternoon by water.").reasons
    assert "keeps only 0 of its 3 words" in reasons[0]
    assert accepts(original, original).accepted


@pytest.mark.parametrize(
    ("original", "rewrite", "reason"),
    [
        ("no polyps", "two polyps", "polyp is stated as absent in the original, as present in the rewrite"),
        ("a polyp", "no polyps", "polyp is stated as present in the original, as absent in the rewrite"),
        ("1 polyp", "2 polyps", "polyp: count is 1 in the original, 2 in the rewrite"),
        ("2 polyps", "polyps", "polyp: count is 2 in the original, 2 or more in the rewrite"),
        ("a polyp", "a polyp and text", "text, stated as present, is added by the rewrite"),
        ("a polyp and text", "a polyp", "text, stated as present, is lost in the rewrite"),
        ("a pink polyp", "a red polyp", "polyp: colour is pink in the original, red in the rewrite"),
        ("a polyp of 5-10mm", "a polyp", "polyp: size is 5-10mm in the original, none in the rewrite"),
        ("a colonoscopy", "a gastroscopy", "procedure is colonoscopy in the original, gastroscopy in the"),
        ("the left eye", "the right eye", "side is left eye in the original, right eye in the rewrite"),
        ("CT of the pelvis", "CT of the skull", "anatomy is pelvis in the original, skull in the rewrite"),
        ("polyp in the center", "polyp in the lower-left", "place is center in the original, lower-left in"),
    ],
)
def test_differences_are_told_in_words(original: str, rewrite: str, reason: str) -> None:
    verdict = accepts(original, rewrite)
    assert not verdict.accepted
    assert reason in " | ".join(verdict.reasons)


def test_facts_do_not_differ_from_themselves_and_differences_are_symmetric_in_number() -> None:
    sentences = [prompt for prompt, _ in faithful_pairs()]
    for sentence in sentences:
        assert difference(facts_of(sentence), facts_of(sentence)) == ()
    for a, b in itertools.pairwise(sentences):
        assert len(difference(facts_of(a), facts_of(b))) == len(difference(facts_of(b), facts_of(a)))


@pytest.mark.parametrize("source", [FAITHFUL, HELD_OUT])
def test_faithful_paraphrases_are_accepted(source: Path) -> None:
    pairs = faithful_pairs(source)
    rejected = [pair for pair in pairs if not accepts(*pair).accepted]
    assert len(pairs) >= 150
    assert len(rejected) <= 0.02 * len(pairs), rejected


def test_corruptions_of_templates_are_rejected(template_prompts: list[str]) -> None:
    made = [(prompt, each) for prompt in template_prompts for each in corruptions(prompt)]
    missed = [(prompt, each) for prompt, each in made if accepts(prompt, each.text).accepted]
    assert len(made) >= 500
    assert {each.kind for _, each in made} >= {
        "colour",
        "count",
        "negation",
        "place",
        "procedure",
        "size",
        "type",
    }
    assert len(missed) <= 0.01 * len(made), missed


def test_paraphrases_of_something_else_are_rejected() -> None:
    pairs = [
        (each.text, rewrite)
        for prompt, rewrite in faithful_pairs() + faithful_pairs(HELD_OUT)
        for each in corruptions(prompt)
    ]
    missed = [pair for pair in pairs if accepts(*pair).accepted]
    assert len(pairs) >= 500
    assert len(missed) <= 0.01 * len(pairs), missed


def test_phantom_captions_state_the_facts_of_the_phantom() -> None:
    facts = PhantomFacts("polyps", "lower-right", 2, "<5mm", "pink")
    first = only(phantom_texts(facts)[0])
    assert first == Statement("polyp", count=Count(2, 2, explicit=True), places=frozenset(["lower-right"]))
    sized = only(phantom_texts(facts)[-1])
    assert sized.sizes == {"<5mm"}
    normal = phantom_texts(PhantomFacts("normal mucosa", "upper-left", 0, "none", "pink"))
    assert facts_of(normal[0]).statement("lumen") == Statement("lumen", places=frozenset(["upper-left"]))
    assert facts_of(normal[1]).statement("finding", present=False) is not None


@pytest.mark.skipif(
    "MEDGEN_REAL_DATA" not in os.environ, reason="set MEDGEN_REAL_DATA to a folder with prompts/"
)
def test_real_captions_of_radiology_are_read_without_failing() -> None:
    file = Path(os.environ["MEDGEN_REAL_DATA"]) / "prompts" / "roco-captions.csv"
    with file.open(encoding="utf-8", newline="") as rows:
        captions = [row["Caption"] for row in csv.DictReader(rows)]
    assert all(accepts(caption, caption).accepted for caption in captions)
    lateral = sum(bool(facts_of(caption).sides) for caption in captions)
    assert 0.2 < lateral / len(captions) < 0.6
