"""Blind expert review of synthetic medical images in the browser, and what the ratings mean."""

from medgen_review.audit import TrailError, read_trail, verify_trail
from medgen_review.create import create_study, provenance_file
from medgen_review.demo import write_demo_study
from medgen_review.export import Exported, export_ratings
from medgen_review.prompts import read_prompts
from medgen_review.rating_files import RatingRow, read_ratings
from medgen_review.schedule import Page, Place, pages_for, places_on
from medgen_review.store import (
    Change,
    Enrolled,
    Rater,
    RatingStore,
    Recorded,
    RefusedError,
    StoreError,
    Value,
)
from medgen_review.study import Design, Study, StudyError, read_study

__all__ = [
    "Change",
    "Design",
    "Enrolled",
    "Exported",
    "Page",
    "Place",
    "Rater",
    "RatingRow",
    "RatingStore",
    "Recorded",
    "RefusedError",
    "StoreError",
    "Study",
    "StudyError",
    "TrailError",
    "Value",
    "create_study",
    "export_ratings",
    "pages_for",
    "places_on",
    "provenance_file",
    "read_prompts",
    "read_ratings",
    "read_study",
    "read_trail",
    "verify_trail",
    "write_demo_study",
]
