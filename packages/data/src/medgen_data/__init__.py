"""Medical image data sets: records, image folders, importers, splits, decoding, phantoms."""

from medgen_data.atomic import (
    DiskFullError,
    write_bytes_atomic,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from medgen_data.captions import CaptionRow, read_captions
from medgen_data.fingerprint import dataset_fingerprint, file_sha256
from medgen_data.image_folder import ImageDataset, check_fingerprint, read_image_folder, write_card_and_rows
from medgen_data.images import (
    ImageError,
    decode_image,
    encode_png,
    fit_square,
    from_pixel_values,
    to_pixel_values,
)
from medgen_data.importers import ImportKind, ImportRun, import_dataset
from medgen_data.near_duplicates import find_near_duplicates
from medgen_data.paths import safe_join
from medgen_data.phantoms import PHANTOM_LABELS, write_phantom_dataset
from medgen_data.problems import DataError, Problem
from medgen_data.records import DatasetCard, FactValue, Generation, ImageRecord, Split, attribute
from medgen_data.splits import Leak, assign_splits, find_leaks

__all__ = [
    "PHANTOM_LABELS",
    "CaptionRow",
    "DataError",
    "DatasetCard",
    "DiskFullError",
    "FactValue",
    "Generation",
    "ImageDataset",
    "ImageError",
    "ImageRecord",
    "ImportKind",
    "ImportRun",
    "Leak",
    "Problem",
    "Split",
    "assign_splits",
    "attribute",
    "check_fingerprint",
    "dataset_fingerprint",
    "decode_image",
    "encode_png",
    "file_sha256",
    "find_leaks",
    "find_near_duplicates",
    "fit_square",
    "from_pixel_values",
    "import_dataset",
    "read_captions",
    "read_image_folder",
    "safe_join",
    "to_pixel_values",
    "write_bytes_atomic",
    "write_card_and_rows",
    "write_json_atomic",
    "write_jsonl_atomic",
    "write_phantom_dataset",
    "write_text_atomic",
]
