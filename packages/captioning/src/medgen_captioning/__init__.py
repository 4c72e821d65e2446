"""Captions of medical images: by class, measured from the pixels, or by a model; and their paraphrases."""

from medgen_captioning.describe import Access
from medgen_captioning.language_model import LanguageModelConfig, LanguageModelParaphraser
from medgen_captioning.measured import measured_caption
from medgen_captioning.planning import CaptionPlan
from medgen_captioning.prompts import VISUAL_FEATURES, article, description_request, simple_caption
from medgen_captioning.run import CaptionConfig, CaptionRun, caption_dataset, check_caption, plan_dataset

__all__ = [
    "VISUAL_FEATURES",
    "Access",
    "CaptionConfig",
    "CaptionPlan",
    "CaptionRun",
    "LanguageModelConfig",
    "LanguageModelParaphraser",
    "article",
    "caption_dataset",
    "check_caption",
    "description_request",
    "measured_caption",
    "plan_dataset",
    "simple_caption",
]
