"""What a sentence about a medical image states, as data."""

from dataclasses import dataclass

ROWS = ("upper", "center", "lower")
COLUMNS = ("left", "center", "right")
# The nine zones of MedVQA-GI; the middle one is called center alone.
ZONES = (
    "upper-left",
    "upper-center",
    "upper-right",
    "center-left",
    "center",
    "center-right",
    "lower-left",
    "lower-center",
    "lower-right",
)


@dataclass(frozen=True)
class Count:
    """How many there are.

    Attributes:
        low: Fewest, >= 1; what is absent has no count.
        high: Most; None for no limit ("several" is 2 or more).
        explicit: Whether a number or quantity word says so; else an article or a plural does.
    """

    low: int
    high: int | None
    explicit: bool

    def __str__(self) -> str:
        """Return the count in words, e.g. `2`, `1 to 3`, `2 or more`."""
        if self.low == self.high:
            return str(self.low)
        return f"{self.low} or more" if self.high is None else f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Statement:
    """One thing that a sentence says is there, or is not.

    Attributes:
        entity: Canonical name, e.g. `polyp`, `biopsy forceps`, `box artefact`; empty for attributes of nothing.
        present: False for "no polyps", "free of polyps", "polyps are absent".
        count: None if the sentence leaves it open or `present` is False.
        sizes: E.g. `<5mm`, `5-10mm`, or a word: `small`.
        colours: British spelling, e.g. `pink`, `pale pink`, `grey`.
        places: Zones of the picture (`ZONES`), or a half: `upper`, `lower`, `left`, `right`.
        types: Types of the Paris classification: `ip`, `is`, `iia`.
    """

    entity: str
    present: bool = True
    count: Count | None = None
    sizes: frozenset[str] = frozenset()
    colours: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ClinicalFacts:
    """All that a sentence states.

    Attributes:
        statements: Sorted by entity; one entity occurs at most once as present and once as absent.
        procedures: How the picture was made: `colonoscopy`, `gastroscopy`, `ct`; the bare `endoscopy` too.
        sides: Sides of the body: pairs of side (`left`, `right`, `both`) and structure, e.g. (`left`, `lung`).
            The structure is empty if none is known near the word.
        structures: Parts of the body that are named, e.g. `pelvis`; not those that a finding or procedure implies.
        qualifiers: Further words that must survive, e.g. `acute`, `posterior`, `sagittal`.
        numbers: Numbers that are neither count nor size, and codes with one, e.g. `t10`.
    """

    statements: tuple[Statement, ...] = ()
    procedures: frozenset[str] = frozenset()
    sides: frozenset[tuple[str, str]] = frozenset()
    structures: frozenset[str] = frozenset()
    qualifiers: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()

    def statement(self, entity: str, *, present: bool = True) -> Statement | None:
        """Return what is said of an entity, None if nothing is."""
        for statement in self.statements:
            if (statement.entity, statement.present) == (entity, present):
                return statement
        return None
