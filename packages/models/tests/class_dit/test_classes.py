import pytest
from medgen_models.class_dit.classes import ClassNames

KVASIR = ClassNames(["normal", "Normal-Cecum", "polyps", "dyed-lifted-polyps", "ulcerative_colitis"])


@pytest.mark.parametrize(
    ("prompt", "class_id"),
    [
        ("polyps", 2),
        ("POLYPS", 2),
        ("an endoscopic image of polyps.", 2),
        ("normal", 0),
        ("A normal cecum, well lit", 1),  # the longest of `normal` and `normal cecum`
        ("normal-cecum beside normal_cecum", 1),
        ("normal cecum normal cecum", 1),
        ("Dyed lifted polyps", 3),
        ("ulcerative   colitis", 4),
        ("", 5),
        ("  ", 5),
    ],
)
def test_a_prompt_is_the_class_it_names(prompt: str, class_id: int) -> None:
    assert KVASIR.class_of(prompt) == class_id


def test_the_null_class_comes_after_the_last() -> None:
    assert KVASIR.null_class == 5
    assert ClassNames(["melanoma"]).class_of("") == 1


@pytest.mark.parametrize("prompt", ["an ulcer", "polypsx", "abnormal", "?"])
def test_a_prompt_without_a_class_is_refused_and_the_classes_are_named(prompt: str) -> None:
    with pytest.raises(ValueError, match="names no class; known are normal, Normal-Cecum, polyps") as caught:
        KVASIR.class_of(prompt)
    assert repr(prompt) in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("polyps in a normal cecum", "Normal-Cecum, polyps"),
        ("dyed lifted polyps and other polyps", "dyed-lifted-polyps, polyps"),
        ("normal cecum, normal", "Normal-Cecum, normal"),
    ],
)
def test_a_prompt_of_several_classes_is_refused(prompt: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"names several classes: {named};"):
        KVASIR.class_of(prompt)


def test_names_that_overlap_without_one_inside_the_other_clash() -> None:
    with pytest.raises(ValueError, match="names several classes: chronic ulcer, ulcer scar;"):
        ClassNames(["chronic ulcer", "ulcer scar"]).class_of("a chronic ulcer scar")


def test_names_that_no_prompt_could_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="classes 'normal-z-line' and 'Normal Z line' cannot be told apart"):
        ClassNames(["normal-z-line", "polyps", "Normal Z line"])
    with pytest.raises(ValueError, match="class 1: name '--' holds no letter or digit"):
        ClassNames(["polyps", "--"])
    with pytest.raises(ValueError, match="list of at least one name, got 'polyps'"):
        ClassNames("polyps")
    with pytest.raises(ValueError, match=r"list of at least one name, got \[\]"):
        ClassNames([])
