"""Scores of generated images: Frechet distance, KID, precision and recall, each with an interval.

Names are loaded when they are first used: `import medgen_metrics` and `medgen-metrics --help` need no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medgen_metrics.colour import (
        ColourComparison,
        ColourReport,
        ColourStatistics,
        colour_report,
        colour_statistics,
        colour_statistics_of_files,
        compare_colours,
        paired_colour_loss,
    )
    from medgen_metrics.evaluate import NoScoreError, score_features, score_image_files
    from medgen_metrics.extract import ExtractedSet, extract_batches, extract_features, extract_many
    from medgen_metrics.feature_files import (
        FeatureCache,
        FeatureFileError,
        FeatureSet,
        FeatureSpace,
        read_features,
        write_features,
    )
    from medgen_metrics.feature_statistics import (
        FeatureStatistics,
        RunningStatistics,
        fit_statistics,
        merge_statistics,
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
        FrechetInfluence,
        frechet_distance,
        frechet_distance_of_statistics,
        frechet_estimate,
        frechet_influence,
    )
    from medgen_metrics.frechet_limit import FrechetLimit, frechet_limit
    from medgen_metrics.image_decoding import ImageFileError, decode_image, find_sixteen_bit_range
    from medgen_metrics.image_sets import ImageRow, list_image_classes, list_image_files, list_image_rows
    from medgen_metrics.image_tensors import as_uint8_images
    from medgen_metrics.imageclef2024 import official_2024_distance
    from medgen_metrics.inception_score import InceptionScore, inception_score
    from medgen_metrics.intervals import Estimate
    from medgen_metrics.kernel import (
        KID_KERNEL,
        PolynomialKernel,
        kernel_distance,
        kernel_distance_of_subsets,
    )
    from medgen_metrics.neighbours import nearest_neighbours
    from medgen_metrics.pairs_sheet import write_pairs_sheet
    from medgen_metrics.prdc import Prdc, prdc
    from medgen_metrics.preprocessing import RESIZES, Preprocessing, Resize, resize_images
    from medgen_metrics.privacy import (
        AuditConfig,
        AuditDataError,
        CopyPair,
        PixelExtractor,
        PrivacyAudit,
        SpaceFeatures,
        audit_features,
        audit_image_files,
        write_audit,
    )
    from medgen_metrics.prompt_files import ObjectiveImages, PromptFileError, read_prompt_file
    from medgen_metrics.prompt_sheet import PromptConfig, PromptSheet, score_prompt_files, write_prompt_sheet
    from medgen_metrics.prompts import (
        Objective,
        ObjectiveScore,
        PromptScores,
        consecutive_objectives,
        prompt_scores,
    )
    from medgen_metrics.rank_files import (
        RankFileError,
        RankTable,
        ScoreTable,
        read_rank_table,
        read_score_table,
    )
    from medgen_metrics.rank_sheet import RankSheet, agreement_with_ranks, write_rank_sheet
    from medgen_metrics.ranks import RankAgreement, kendall_tau_b, rank_agreement, spearman_correlation
    from medgen_metrics.realism import realism
    from medgen_metrics.score import (
        ExtractorRef,
        Score,
        ScoreFileError,
        ScoreSheet,
        read_scores,
        write_scores,
    )
    from medgen_metrics.score_config import DEFAULT_METRICS, METRICS, ScoreConfig
    from medgen_metrics.statistics_files import (
        StatisticsSet,
        fit_statistics_set,
        frechet_distance_of_sets,
        read_statistics,
        write_statistics,
    )

__all__ = [
    "DEFAULT_METRICS",
    "EXTRACTORS",
    "KID_KERNEL",
    "METRICS",
    "RESIZES",
    "AuditConfig",
    "AuditDataError",
    "ColourComparison",
    "ColourReport",
    "ColourStatistics",
    "CopyPair",
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
    "FrechetInfluence",
    "FrechetLimit",
    "HfVisionExtractor",
    "ImageFileError",
    "ImageRow",
    "InceptionExtractor",
    "InceptionScore",
    "MissingWeightsError",
    "NoScoreError",
    "Objective",
    "ObjectiveImages",
    "ObjectiveScore",
    "PixelExtractor",
    "PolynomialKernel",
    "Prdc",
    "Preprocessing",
    "PrivacyAudit",
    "PromptConfig",
    "PromptFileError",
    "PromptScores",
    "PromptSheet",
    "RandomExtractor",
    "RankAgreement",
    "RankFileError",
    "RankSheet",
    "RankTable",
    "Resize",
    "RunningStatistics",
    "Score",
    "ScoreConfig",
    "ScoreFileError",
    "ScoreSheet",
    "ScoreTable",
    "SpaceFeatures",
    "StatisticsSet",
    "agreement_with_ranks",
    "as_uint8_images",
    "audit_features",
    "audit_image_files",
    "check_extractor_name",
    "colour_report",
    "colour_statistics",
    "colour_statistics_of_files",
    "compare_colours",
    "consecutive_objectives",
    "decode_image",
    "extract_batches",
    "extract_features",
    "extract_many",
    "find_sixteen_bit_range",
    "fit_statistics",
    "fit_statistics_set",
    "frechet_distance",
    "frechet_distance_of_sets",
    "frechet_distance_of_statistics",
    "frechet_estimate",
    "frechet_influence",
    "frechet_limit",
    "inception_score",
    "kendall_tau_b",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "list_image_classes",
    "list_image_files",
    "list_image_rows",
    "load_extractor",
    "merge_statistics",
    "nearest_neighbours",
    "official_2024_distance",
    "paired_colour_loss",
    "prdc",
    "prompt_scores",
    "rank_agreement",
    "read_features",
    "read_prompt_file",
    "read_rank_table",
    "read_score_table",
    "read_scores",
    "read_statistics",
    "realism",
    "resize_images",
    "score_features",
    "score_image_files",
    "score_prompt_files",
    "spearman_correlation",
    "write_audit",
    "write_features",
    "write_pairs_sheet",
    "write_prompt_sheet",
    "write_rank_sheet",
    "write_scores",
    "write_statistics",
]

# Module -> the names it gives to the package.
_EXPORTS: dict[str, tuple[str, ...]] = {
    "colour": (
        "ColourComparison",
        "ColourReport",
        "ColourStatistics",
        "colour_report",
        "colour_statistics",
        "colour_statistics_of_files",
        "compare_colours",
        "paired_colour_loss",
    ),
    "evaluate": ("NoScoreError", "score_features", "score_image_files"),
    "score_config": ("DEFAULT_METRICS", "METRICS", "ScoreConfig"),
    "extract": (
        "ExtractedSet",
        "extract_batches",
        "extract_features",
        "extract_many",
    ),
    "feature_files": (
        "FeatureCache",
        "FeatureFileError",
        "FeatureSet",
        "FeatureSpace",
        "read_features",
        "write_features",
    ),
    "feature_statistics": (
        "FeatureStatistics",
        "RunningStatistics",
        "fit_statistics",
        "merge_statistics",
    ),
    "features": (
        "EXTRACTORS",
        "EfficientNetLite0Extractor",
        "FeatureExtractor",
        "HfVisionExtractor",
        "InceptionExtractor",
        "MissingWeightsError",
        "RandomExtractor",
        "check_extractor_name",
        "load_extractor",
    ),
    "frechet": (
        "FrechetInfluence",
        "frechet_distance",
        "frechet_distance_of_statistics",
        "frechet_estimate",
        "frechet_influence",
    ),
    "frechet_limit": (
        "FrechetLimit",
        "frechet_limit",
    ),
    "image_decoding": ("ImageFileError", "decode_image", "find_sixteen_bit_range"),
    "image_sets": ("ImageRow", "list_image_classes", "list_image_files", "list_image_rows"),
    "image_tensors": ("as_uint8_images",),
    "imageclef2024": ("official_2024_distance",),
    "inception_score": (
        "InceptionScore",
        "inception_score",
    ),
    "intervals": ("Estimate",),
    "kernel": (
        "KID_KERNEL",
        "PolynomialKernel",
        "kernel_distance",
        "kernel_distance_of_subsets",
    ),
    "neighbours": ("nearest_neighbours",),
    "pairs_sheet": ("write_pairs_sheet",),
    "prdc": (
        "Prdc",
        "prdc",
    ),
    "preprocessing": (
        "Preprocessing",
        "RESIZES",
        "Resize",
        "resize_images",
    ),
    "privacy": (
        "AuditConfig",
        "AuditDataError",
        "CopyPair",
        "PixelExtractor",
        "PrivacyAudit",
        "SpaceFeatures",
        "audit_features",
        "audit_image_files",
        "write_audit",
    ),
    "prompt_files": ("ObjectiveImages", "PromptFileError", "read_prompt_file"),
    "prompt_sheet": ("PromptConfig", "PromptSheet", "score_prompt_files", "write_prompt_sheet"),
    "rank_files": ("RankFileError", "RankTable", "ScoreTable", "read_rank_table", "read_score_table"),
    "rank_sheet": ("RankSheet", "agreement_with_ranks", "write_rank_sheet"),
    "prompts": (
        "Objective",
        "ObjectiveScore",
        "PromptScores",
        "consecutive_objectives",
        "prompt_scores",
    ),
    "ranks": (
        "RankAgreement",
        "kendall_tau_b",
        "rank_agreement",
        "spearman_correlation",
    ),
    "realism": ("realism",),
    "score": (
        "ExtractorRef",
        "Score",
        "ScoreFileError",
        "ScoreSheet",
        "read_scores",
        "write_scores",
    ),
    "statistics_files": (
        "StatisticsSet",
        "fit_statistics_set",
        "frechet_distance_of_sets",
        "read_statistics",
        "write_statistics",
    ),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


class _LazyPackage(ModuleType):
    """This package; some functions carry the name of their module, and the function is what the name means."""

    def __setattr__(self, name: str, value: object) -> None:
        # Importing a submodule binds it in the package, where it would hide the function.
        if isinstance(value, ModuleType) and name in _MODULE_OF:
            value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        super().__setattr__(name, value)


# A type checker takes the imports above, and would take this as leave to use any name.
if not TYPE_CHECKING:
    sys.modules[__name__].__class__ = _LazyPackage

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
