"""Captions of medical images: class captions, and captions measured from the pixels."""

from medgen_captioning.measured import measured_caption
from medgen_captioning.prompts import VISUAL_FEATURES, article, description_request, simple_caption
from medgen_captioning.run import CaptionConfig, CaptionRun, caption_dataset, check_caption

__all__ = [
    "VISUAL_FEATURES",
    "CaptionConfig",
    "CaptionRun",
    "article",
    "caption_dataset",
    "check_caption",
    "description_request",
    "measured_caption",
    "simple_caption",
]
