"""The published generators at full size: facts to count, to measure on the meta device, or to fill at random."""

from medgen_models.architectures.build import (
    ARCHITECTURES,
    FamilyName,
    architecture,
    build_parts,
    example_inputs,
)
from medgen_models.architectures.specification import Architecture, InputSize, Part

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "FamilyName",
    "InputSize",
    "Part",
    "architecture",
    "build_parts",
    "example_inputs",
]
