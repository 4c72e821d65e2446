"""Sentences that captions begin with, and the request of Med-Art (Guo et al. 2025, section 2.1, Table 1)."""

from string import Formatter

# What Table 1 asks a vision-language model to look at.
VISUAL_FEATURES = {
    "dermoscopic": "specific color, symmetry, border, shape, texture and dermoscopic patterns",
    "endoscopic": (
        "specific color, shape, surrounding mucosa, surface texture, bleeding condition, "
        "and other relevant details"
    ),
}

# Section 2.1, word for word; {opening} is the simple caption of Table 1.
REQUEST_TEMPLATE = (
    "{opening}. Please describe the {modality} image of {category} using the following visual features: "
    "{features}. Start with '{opening}' and ensure the description does not exceed {max_words} words."
)
PLACEHOLDERS = frozenset(["category", "features", "max_words", "modality", "opening"])

# Letters whose names begin with a vowel: an MRI, an X-ray, but a CT.
_VOWEL_LETTERS = "AEFHILMNORSX"
# Written with a vowel, spoken with a consonant, or the other way round.
_SPOKEN_CONSONANT = ("uni", "use", "usu", "ute", "euro", "one-", "once")
_SPOKEN_VOWEL = ("hour", "honest", "heir")


def article(word: str) -> str:
    """Return `An` or `A`, by how a word is spoken.

    >>> [f"{article(word)} {word}" for word in ("endoscopic", "dermoscopic", "MRI", "X-ray", "unilateral")]
    ['An endoscopic', 'A dermoscopic', 'An MRI', 'An X-ray', 'A unilateral']
    """
    first_part = word.split("-", maxsplit=1)[0].split(" ", maxsplit=1)[0]
    if first_part.isupper():
        return "An" if first_part[0] in _VOWEL_LETTERS else "A"
    spoken = word.lower()
    vowel = spoken.startswith(("a", "e", "i", "o", "u")) and not spoken.startswith(_SPOKEN_CONSONANT)
    return "An" if vowel or spoken.startswith(_SPOKEN_VOWEL) else "A"


def simple_caption(modality: str, category: str | None) -> str:
    """Return the simple caption of Table 1; without a category, only its first words.

    >>> simple_caption("endoscopic", "dyed lifted polyps")
    'An endoscopic image of dyed lifted polyps'
    """
    opening = f"{article(modality)} {modality} image"
    return f"{opening} of {category}" if category else opening


def visual_features(modality: str, features: str | None = None) -> str:
    """Return the features to ask for: those given, or those of Table 1 for the modality.

    Raises:
        ValueError: If none are given and none are known for the modality.
    """
    if features is not None:
        return features
    if modality not in VISUAL_FEATURES:
        raise ValueError(
            f"visual features are known for {sorted(VISUAL_FEATURES)}, not for {modality!r}; give your own"
        )
    return VISUAL_FEATURES[modality]


def description_request(
    modality: str,
    category: str | None,
    *,
    max_words: int = 100,
    features: str | None = None,
    template: str = REQUEST_TEMPLATE,
) -> str:
    """Return what to ask a vision-language model about an image; its answer begins with the simple caption.

    Args:
        modality: E.g. `endoscopic`.
        category: Class of the image.
        max_words: Longest answer.
        features: What to look at; None: what Table 1 asks for this modality.
        template: The request with placeholders `{opening}`, `{modality}`, `{category}`, `{features}` and
            `{max_words}`.

    Raises:
        ValueError: If there is no category, no features are known for the modality, or the template has
            other placeholders.
    """
    if not category or not category.strip():
        raise ValueError("the request needs a category, but the image has no label; label it or leave it out")
    check_template(template)
    return template.format(
        opening=simple_caption(modality, category),
        modality=modality,
        category=category,
        features=visual_features(modality, features),
        max_words=max_words,
    )


def check_template(template: str) -> str:
    """Return a request template unchanged, or refuse it.

    Raises:
        ValueError: If a placeholder is not known or a brace is not closed.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write a plain brace twice") from None
    unknown = sorted({str(name) for _, name, _, _ in parts if name is not None} - PLACEHOLDERS)
    if unknown:
        raise ValueError(
            f"template {template!r} has placeholders without a value: {unknown}; known are "
            f"{sorted(PLACEHOLDERS)}"
        )
    return template
