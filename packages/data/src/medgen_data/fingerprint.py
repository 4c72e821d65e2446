"""Content hashes: of a file, and of a data set."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from medgen_data.paths import safe_join
from medgen_data.problems import DataError
from medgen_data.records import ImageRecord


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in lower-case hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def dataset_fingerprint(root: Path, records: Iterable[ImageRecord]) -> str:
    """Return the content hash of a set of records and of their image files.

    Covers every field of each record but `file_name`, and the bytes of each image file. Independent of
    the order of the rows and of where and under which name the images lie; the split does count, because
    another split is another experiment.

    Args:
        root: Folder of the data set.
        records: All records, or a selection of them.

    Returns:
        SHA-256 in lower-case hex.

    Raises:
        DataError: If an image file is missing.
    """
    lines = sorted(_record_line(root, record) for record in records)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def _record_line(root: Path, record: ImageRecord) -> str:
    try:
        pixels = file_sha256(safe_join(root, record.file_name))
    except FileNotFoundError:
        raise DataError(
            f"record {record.record_id}: {root / record.file_name} is missing; restore it or drop its row"
        ) from None
    row = {name: value for name, value in record.to_row().items() if name != "file_name"}
    return json.dumps([row, pixels], sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
