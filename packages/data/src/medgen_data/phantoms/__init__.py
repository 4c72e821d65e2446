"""Phantoms: endoscopy-like pictures whose class, place, count, size and colour are known exactly."""

from medgen_data.phantoms.facts import (
    PHANTOM_LABELS,
    POLYP_SIZES,
    QUADRANTS,
    PhantomFacts,
    draw_facts,
    phantom_texts,
)
from medgen_data.phantoms.folder import phantom_seed, write_phantom_dataset
from medgen_data.phantoms.render import render_phantom

__all__ = [
    "PHANTOM_LABELS",
    "POLYP_SIZES",
    "QUADRANTS",
    "PhantomFacts",
    "draw_facts",
    "phantom_seed",
    "phantom_texts",
    "render_phantom",
    "write_phantom_dataset",
]
