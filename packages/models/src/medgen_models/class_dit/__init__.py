"""DiT: the class-conditional diffusion transformer, trained from scratch.

The folder is not named `dit`: when diffusers saves a pipeline, it takes a module from a folder named like one of
its own pipelines for its own, and cannot load it again.
"""

from medgen_models.class_dit.classes import ClassNames
from medgen_models.class_dit.pipeline import ClassDitPipeline
from medgen_models.class_dit.presets import DIT_PRESETS, DitPreset
from medgen_models.class_dit.transformer import ClassDit

__all__ = ["DIT_PRESETS", "ClassDit", "ClassDitPipeline", "ClassNames", "DitPreset"]
