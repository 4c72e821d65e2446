import pytest
from medgen_captioning.prompts import VISUAL_FEATURES, article, description_request, simple_caption


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("endoscopic", "An"),
        ("dermoscopic", "A"),
        ("ultrasound", "An"),
        ("ultrasonographic", "An"),
        ("unilateral", "A"),
        ("MRI", "An"),
        ("CT", "A"),
        ("X-ray", "An"),
        ("OCT", "An"),
        ("histological", "A"),
        ("Endoscopic", "An"),
    ],
)
def test_article_follows_the_spoken_word(word: str, expected: str) -> None:
    assert article(word) == expected


def test_simple_captions_are_those_of_the_paper() -> None:
    assert simple_caption("endoscopic", "dyed lifted polyps") == "An endoscopic image of dyed lifted polyps"
    assert simple_caption("dermoscopic", "Melanoma") == "A dermoscopic image of Melanoma"
    assert simple_caption("endoscopic", None) == "An endoscopic image"


def test_description_request_names_caption_features_and_limit() -> None:
    request = description_request("endoscopic", "polyps", max_words=80)
    assert request.startswith(
        "An endoscopic image of polyps. Please describe the endoscopic image of polyps using"
    )
    assert VISUAL_FEATURES["endoscopic"] in request
    assert "Start with 'An endoscopic image of polyps'" in request
    assert request.endswith("does not exceed 80 words.")


def test_description_request_refuses_a_modality_without_features() -> None:
    with pytest.raises(ValueError, match=r"known for \['dermoscopic', 'endoscopic'\], not for 'thermal'"):
        description_request("thermal", "polyps")
