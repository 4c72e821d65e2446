"""Sentences that captions begin with, and the request of Med-Art (Guo et al. 2025, section 2.1, Table 1)."""

# What Table 1 asks a vision-language model to look at.
VISUAL_FEATURES = {
    "dermoscopic": "specific color, symmetry, border, shape, texture and dermoscopic patterns",
    "endoscopic": (
        "specific color, shape, surrounding mucosa, surface texture, bleeding condition, "
        "and other relevant details"
    ),
}

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


def description_request(modality: str, category: str, *, max_words: int = 100) -> str:
    """Return what to ask a vision-language model about an image; its answer begins with the simple caption.

    Raises:
        ValueError: If no visual features are known for the modality.
    """
    if modality not in VISUAL_FEATURES:
        raise ValueError(f"visual features are known for {sorted(VISUAL_FEATURES)}, not for {modality!r}")
    opening = simple_caption(modality, category)
    return (
        f"{opening}. Please describe the {modality} image of {category} using the following visual features: "
        f"{VISUAL_FEATURES[modality]}. Start with '{opening}' and ensure the description does not exceed "
        f"{max_words} words."
    )
