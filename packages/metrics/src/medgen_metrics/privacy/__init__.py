"""Privacy audit: did the generator give back its training images?"""

from medgen_metrics.privacy.audit import (
    CopyPair,
    PrivacyAudit,
    SpaceAudit,
    SpaceFeatures,
    audit_features,
    write_audit,
)
from medgen_metrics.privacy.calibration import Threshold, calibrate_threshold, leaked_rows, num_holdout_needed
from medgen_metrics.privacy.files import AuditConfig, AuditDataError, audit_image_files
from medgen_metrics.privacy.nearest import NearestTrain, count_authentic, nearest_over_views
from medgen_metrics.privacy.pixels import PixelExtractor
from medgen_metrics.privacy.views import VIEWS, ViewedExtractor

__all__ = [
    "VIEWS",
    "AuditConfig",
    "AuditDataError",
    "CopyPair",
    "NearestTrain",
    "PixelExtractor",
    "PrivacyAudit",
    "SpaceAudit",
    "SpaceFeatures",
    "Threshold",
    "ViewedExtractor",
    "audit_features",
    "audit_image_files",
    "calibrate_threshold",
    "count_authentic",
    "leaked_rows",
    "nearest_over_views",
    "num_holdout_needed",
    "write_audit",
]
