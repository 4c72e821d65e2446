"""Scores of generated images: Frechet distance, KID, precision and recall, each with an interval."""

from medgen_metrics.evaluate import METRICS, ScoreConfig, score_features, score_image_files
from medgen_metrics.extract import ExtractedSet, extract_batches, extract_features, extract_many
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
    HfVisionExtractor,
    InceptionExtractor,
    MissingWeightsError,
    RandomExtractor,
    check_extractor_name,
    load_extractor,
)
from medgen_metrics.frechet import (
    FeatureStatistics,
    fit_statistics,
    frechet_distance,
    frechet_distance_of_statistics,
    frechet_estimate,
)
from medgen_metrics.image_sets import (
    ImageFileError,
    ImageRow,
    as_uint8_images,
    decode_image,
    list_image_files,
    list_image_rows,
)
from medgen_metrics.inception_score import InceptionScore, inception_score
from medgen_metrics.intervals import Estimate
from medgen_metrics.kernel import kernel_distance, kernel_distance_of_subsets
from medgen_metrics.neighbours import nearest_neighbours
from medgen_metrics.prdc import Prdc, prdc
from medgen_metrics.preprocessing import RESIZES, Preprocessing, Resize, resize_images
from medgen_metrics.score import ExtractorRef, Score, ScoreFileError, ScoreSheet, read_scores, write_scores

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "RESIZES",
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
    "HfVisionExtractor",
    "ImageFileError",
    "ImageRow",
    "InceptionExtractor",
    "InceptionScore",
    "MissingWeightsError",
    "Prdc",
    "Preprocessing",
    "RandomExtractor",
    "Resize",
    "Score",
    "ScoreConfig",
    "ScoreFileError",
    "ScoreSheet",
    "as_uint8_images",
    "check_extractor_name",
    "decode_image",
    "extract_batches",
    "extract_features",
    "extract_many",
    "fit_statistics",
    "frechet_distance",
    "frechet_distance_of_statistics",
    "frechet_estimate",
    "inception_score",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "list_image_files",
    "list_image_rows",
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
