"""Scores of generated images: Frechet distance, KID, precision and recall, each with an interval."""

from medgen_metrics.evaluate import METRICS, ScoreConfig, score_features, score_image_files
from medgen_metrics.extract import ExtractedSet, extract_features
from medgen_metrics.feature_files import (
    FeatureCache,
    FeatureFileError,
    FeatureSet,
    FeatureSpace,
    read_features,
    write_features,
)
from medgen_metrics.features import (
    EXTRACTORS,
    EfficientNetLite0Extractor,
    FeatureExtractor,
    MissingWeightsError,
    RandomExtractor,
    load_extractor,
)
from medgen_metrics.frechet import (
    FeatureStatistics,
    fit_statistics,
    frechet_distance,
    frechet_distance_of_statistics,
    frechet_estimate,
)
from medgen_metrics.image_sets import ImageFileError, as_uint8_images, decode_image, list_image_files
from medgen_metrics.intervals import Estimate
from medgen_metrics.kernel import kernel_distance, kernel_distance_of_subsets
from medgen_metrics.neighbours import nearest_neighbours
from medgen_metrics.prdc import Prdc, prdc
from medgen_metrics.preprocessing import Preprocessing, resize_images
from medgen_metrics.score import ExtractorRef, Score, ScoreFileError, ScoreSheet, read_scores, write_scores

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "EfficientNetLite0Extractor",
    "Estimate",
    "ExtractedSet",
    "ExtractorRef",
    "FeatureCache",
    "FeatureExtractor",
    "FeatureFileError",
    "FeatureSet",
    "FeatureSpace",
    "FeatureStatistics",
    "ImageFileError",
    "MissingWeightsError",
    "Prdc",
    "Preprocessing",
    "RandomExtractor",
    "Score",
    "ScoreConfig",
    "ScoreFileError",
    "ScoreSheet",
    "as_uint8_images",
    "decode_image",
    "extract_features",
    "fit_statistics",
    "frechet_distance",
    "frechet_distance_of_statistics",
    "frechet_estimate",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "list_image_files",
    "load_extractor",
    "nearest_neighbours",
    "prdc",
    "read_features",
    "read_scores",
    "resize_images",
    "score_features",
    "score_image_files",
    "write_features",
    "write_scores",
]
