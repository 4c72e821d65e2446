"""What a phantom shows, drawn at random but balanced, and the sentences that are true of it."""

from dataclasses import dataclass

import numpy as np

from medgen_data.records import FactValue

PHANTOM_LABELS = ("dyed lifted polyps", "normal mucosa", "polyps", "ulcerative colitis")
QUADRANTS = ("upper-left", "upper-right", "lower-left", "lower-right")
POLYP_SIZES = ("<5mm", "5-10mm", "11-20mm", ">20mm")

# The larger the findings, the fewer have room in one quadrant.
_SIZES_BY_COUNT = {1: POLYP_SIZES, 2: POLYP_SIZES[:3], 3: POLYP_SIZES[:2]}
_COLOURS = {
    "dyed lifted polyps": ("blue",),
    "normal mucosa": ("pink",),
    "polyps": ("pink", "red"),
    "ulcerative colitis": ("red",),
}
_NUM_CELLS = len(PHANTOM_LABELS) * len(QUADRANTS)


@dataclass(frozen=True)
class PhantomFacts:
    """The known truth of one phantom.

    Attributes:
        label: One of `PHANTOM_LABELS`.
        quadrant: Where the findings lie; for normal mucosa, where the lumen lies.
        count: Number of polyps or ulcers, 1 to 3; 0 for normal mucosa.
        size: Diameter of each finding, one of `POLYP_SIZES`; "none" for normal mucosa.
        colour: Colour of the findings; for normal mucosa, of the mucosa.
    """

    label: str
    quadrant: str
    count: int
    size: str
    colour: str

    def __post_init__(self) -> None:
        if self.label not in PHANTOM_LABELS:
            raise ValueError(f"label must be one of {PHANTOM_LABELS}, got {self.label!r}")
        if self.quadrant not in QUADRANTS:
            raise ValueError(f"quadrant must be one of {QUADRANTS}, got {self.quadrant!r}")
        if self.colour not in _COLOURS[self.label]:
            raise ValueError(
                f"colour of {self.label} must be one of {_COLOURS[self.label]}, got {self.colour!r}"
            )
        normal = self.label == "normal mucosa"
        sizes = {0: ("none",)} if normal else _SIZES_BY_COUNT
        if self.size not in sizes.get(self.count, ()):
            raise ValueError(
                f"count and size of {self.label} must be one of {sizes}, got {self.count}, {self.size!r}"
            )

    def to_row(self) -> dict[str, FactValue]:
        """Return the facts of a record; the label is a field of its own there."""
        return {"quadrant": self.quadrant, "count": self.count, "size": self.size, "colour": self.colour}


def draw_facts(index: int, seed: int) -> PhantomFacts:
    """Draw the facts of one phantom of a set.

    Every 16 phantoms in a row hold each pair of class and quadrant once, in a random order.

    Args:
        index: Position in the set, from 0; the facts do not depend on the length of the set.
        seed: Seed of the set.
    """
    block, place = divmod(index, _NUM_CELLS)
    cell = np.random.default_rng((seed, 0, block)).permutation(_NUM_CELLS)[place]
    label = PHANTOM_LABELS[cell // len(QUADRANTS)]
    quadrant = QUADRANTS[cell % len(QUADRANTS)]
    generator = np.random.default_rng((seed, 1, index))
    colour = str(generator.choice(_COLOURS[label]))
    if label == "normal mucosa":
        return PhantomFacts(label, quadrant, 0, "none", colour)
    count = int(generator.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    size = str(generator.choice(_SIZES_BY_COUNT[count]))
    return PhantomFacts(label, quadrant, count, size, colour)


def phantom_texts(facts: PhantomFacts) -> tuple[str, ...]:
    """Return true sentences in the manner of MedVQA-GI; the first names class and place, the others less.

    >>> phantom_texts(PhantomFacts("polyps", "lower-right", 2, "<5mm", "pink"))[0]
    'Generate an image containing 2 polyps located in the lower-right.'
    """
    if facts.label == "normal mucosa":
        return (
            f"Generate an image of normal mucosa with the lumen located in the {facts.quadrant}.",
            "Generate an image of normal mucosa.",
            "Generate an image with no findings.",
            "Generate an image with no polyps.",
        )
    subject = _findings(facts)
    plural = "" if facts.count == 1 else "s"
    texts = [
        f"Generate an image containing {subject} located in the {facts.quadrant}.",
        f"Generate an image containing {subject}.",
        f"Generate an image with {facts.count} finding{plural}.",
        f"Generate an image with an abnormality located in the {facts.quadrant}.",
        f"Generate an image containing an abnormality with the color {facts.colour}.",
    ]
    if facts.label == "ulcerative colitis":
        ulcers = "an ulcer" if facts.count == 1 else f"{facts.count} ulcers"
        texts += [
            f"Generate an image with {ulcers} of size {facts.size}.",
            "Generate an image with no polyps.",
        ]
    else:
        texts += [f"Generate an image with {subject} of size {facts.size}."]
    return tuple(texts)


def _findings(facts: PhantomFacts) -> str:
    if facts.label == "ulcerative colitis":
        return facts.label
    singular = facts.label.removesuffix("s")
    return f"a {singular}" if facts.count == 1 else f"{facts.count} {facts.label}"
