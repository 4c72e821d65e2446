"""Finished captions: what a run did, which rows may be reused, which must not be touched.

The `revision` of a row names the version of the method and a hash of everything its text depends on. Finished
captions of another revision or seed are somebody's work: they are refused and stay as they are.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from medgen_data.captions import CaptionRow, read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError, Problem

from medgen_captioning.config import CaptionConfig

# Raised with every change that gives another text for the same pixels.
_VERSION = 1


@dataclass(frozen=True)
class CaptionRun:
    """What a run did.

    Attributes:
        num_written: Captions made by this run.
        num_reused: Captions that an earlier run had made.
        problems: Images without a caption, and why; another run tries them again.
        num_asked: Answers that a model gave in this run; the others came from the cache.
        num_in_doubt: Requests to a server without a known outcome: a run was killed while they were in flight.
        quarantine_file: Where the drafts are that failed the checks, with reasons; None if none failed for good.
    """

    num_written: int
    num_reused: int
    problems: tuple[Problem, ...]
    num_asked: int = 0
    num_in_doubt: int = 0
    quarantine_file: Path | None = None


def revision_of(dataset: ImageDataset, config: CaptionConfig, modality: str, writer: str = "") -> str:
    """Return the revision of captions of these settings.

    Args:
        dataset: Its card's fingerprint covers images and labels.
        config: How to caption.
        modality: As used.
        writer: Identity of the models that took part; empty if none did.
    """
    causes = [config.settings_of_method(), modality, dataset.card.fingerprint]
    if writer:
        causes.append(writer)
    return f"{_VERSION}+{hashlib.sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:16]}"


def reusable_rows(
    dataset: ImageDataset, captions_file: Path, method: str, revision: str, seed: int
) -> dict[str, CaptionRow]:
    """Return the rows of a finished captions file, none if there is no file.

    Raises:
        DataError: If they are of other settings, or of records that are not in `dataset`.
    """
    if not captions_file.exists():
        return {}
    rows = read_captions(captions_file)
    other = next((row for row in rows.values() if (row.revision, row.seed) != (revision, seed)), None)
    if other is not None:
        raise DataError(
            f"{captions_file} holds captions of other settings or another data set: method {other.method}, "
            f"revision {other.revision}, seed {other.seed}, but now method {method}, revision {revision}, "
            f"seed {seed}; choose another file or delete this one"
        )
    strangers = rows.keys() - {record.record_id for record in dataset.records}
    if strangers:
        raise DataError(
            f"{captions_file} holds captions of {len(strangers)} records that are not selected now, e.g. "
            f"{min(strangers)}; choose another file for this selection"
        )
    return rows


def take_shard(dataset: ImageDataset, shard: tuple[int, int]) -> ImageDataset:
    """Return every n-th record, beginning with the i-th, of `shard` (i, n); i counts from 0.

    Raises:
        ValueError: If not 0 <= i < n.
        DataError: If there are fewer records than shards.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {shard}")
    if count > len(dataset.records):
        raise DataError(
            f"{dataset.root} has {len(dataset.records)} records selected, too few for {count} shards"
        )
    return ImageDataset(dataset.root, dataset.card, dataset.records[index::count])
