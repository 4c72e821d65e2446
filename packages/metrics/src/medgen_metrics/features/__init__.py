"""Feature extractors: frozen networks from images to vectors."""

from medgen_metrics.features.efficientnet import EfficientNetLite0Extractor
from medgen_metrics.features.inception import InceptionExtractor
from medgen_metrics.features.loading import EXTRACTORS, check_extractor_name, load_extractor
from medgen_metrics.features.protocol import FeatureExtractor, MissingWeightsError
from medgen_metrics.features.random_network import RandomExtractor
from medgen_metrics.features.vit import HfVisionExtractor
from medgen_metrics.features.weights import read_weights, weights_sha256, write_weights

__all__ = [
    "EXTRACTORS",
    "EfficientNetLite0Extractor",
    "FeatureExtractor",
    "HfVisionExtractor",
    "InceptionExtractor",
    "MissingWeightsError",
    "RandomExtractor",
    "check_extractor_name",
    "load_extractor",
    "read_weights",
    "weights_sha256",
    "write_weights",
]
