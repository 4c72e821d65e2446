"""What a sentence about a medical image states, as data, and whether two sentences state the same."""

from medgen_captioning.clinical_facts.comparison import FactDifference, Verdict, accepts, difference
from medgen_captioning.clinical_facts.facts import ZONES, ClinicalFacts, Count, Statement
from medgen_captioning.clinical_facts.reading import facts_of

__all__ = [
    "ZONES",
    "ClinicalFacts",
    "Count",
    "FactDifference",
    "Statement",
    "Verdict",
    "accepts",
    "difference",
    "facts_of",
]
