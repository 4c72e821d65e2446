"""Finished captions: what a run did, which rows may be reused, which must not be touched.

The `revision` of a row names the version of the method and a hash of everything its text depends on. Finished
captions of another revision or seed are somebody's work: they are refused and stay as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from medgen_data.atomic import write_jsonl_atomic
from medgen_data.captions import CaptionRow, read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError, Problem

from medgen_captioning.config import CaptionConfig
from medgen_captioning.shards import (
    assemble,
    finish_part,
    part_of,
    parts_there,
    problems_of,
    remove_parts,
    take_shard,
)

# Raised with every change that gives another text for the same pixels.
_VERSION = 2


@dataclass(frozen=True)
class CaptionRun:
    """What a run did.

    Attributes:
        num_written: Captions made by this run.
        num_reused: Captions that an earlier run had made.
        problems: Images without a caption, and why; another run tries them again.
        num_asked: Answers that a model gave in this run; the others came from the cache.
        num_unanswered: Images of this run that a server gave no answer about; a later run may fare better.
        num_in_doubt: Requests to a server without a known outcome when this run began: in flight when another was
            killed, or in flight from another process then.
        quarantine_file: Where the drafts are that failed the checks, with reasons; None if none failed for good.
        num_shards_missing: Other shards that are not done yet; while there are some, the captions lie in parts.
        problems_file: Where the problems of this shard are as long as others are missing.
    """

    num_written: int
    num_reused: int
    problems: tuple[Problem, ...]
    num_asked: int = 0
    num_unanswered: int = 0
    num_in_doubt: int = 0
    quarantine_file: Path | None = None
    num_shards_missing: int = 0
    problems_file: Path | None = None


@dataclass(frozen=True)
class Target:
    """Where the captions of a run go.

    Attributes:
        dataset: The whole data set, or a selection of one.
        captions_file: Where all captions are in the end.
        shard: (i, n), i from 0.
    """

    dataset: ImageDataset
    captions_file: Path
    shard: tuple[int, int] = (0, 1)

    @property
    def file(self) -> Path:
        """Where this run writes: the captions file, or the part of its shard."""
        return part_of(self.captions_file, self.shard)

    @cached_property
    def mine(self) -> ImageDataset:
        """The records of this shard."""
        return take_shard(self.dataset, self.shard)

    def finished(self, method: str, revision: str, seed: int) -> dict[str, CaptionRow]:
        """Return the rows that need not be made again.

        Raises:
            DataError: If the captions file, or a part beside it, is of other settings.
        """
        files = [self.captions_file]
        files += parts_there(self.captions_file) if self.shard[1] == 1 else [self.file]
        rows: dict[str, CaptionRow] = {}
        for file in dict.fromkeys(files):
            rows |= reusable_rows(self.dataset, file, method, revision, seed)
        mine = {record.record_id for record in self.mine.records}
        return {record_id: row for record_id, row in rows.items() if record_id in mine}

    def complete(self, rows: Mapping[str, CaptionRow], run: CaptionRun) -> CaptionRun:
        """Write the rows of this shard, and put all parts together if it is the last.

        Raises:
            DataError: If no image at all could be captioned.
        """
        ordered = [rows[record.record_id] for record in self.mine.records if record.record_id in rows]
        before = read_captions(self.file) if self.file.exists() else {}
        if ordered and ordered != list(before.values()):
            write_jsonl_atomic(self.file, (row.model_dump(mode="json") for row in ordered))
        if self.shard[1] == 1:
            if not ordered:
                raise _none(run.problems, run.quarantine_file)
            remove_parts(parts_there(self.captions_file))
            return run
        finish_part(self.file, run.problems)
        return self._assemble(run)

    def _assemble(self, run: CaptionRun) -> CaptionRun:
        earlier = read_captions(self.captions_file) if self.captions_file.exists() else {}
        missing = assemble(self.dataset, self.captions_file, self.shard[1], earlier.values())
        if isinstance(missing, int):
            problems_file = problems_of(self.file) if missing else None
            return replace(run, num_shards_missing=missing, problems_file=problems_file)
        if not self.captions_file.exists():
            raise _none(missing.problems, missing.quarantine_file)
        return replace(run, problems=missing.problems, quarantine_file=missing.quarantine_file)


def revision_of(dataset: ImageDataset, config: CaptionConfig, modality: str, writer: str = "") -> str:
    """Return the revision of captions of these settings.

    Args:
        dataset: Its card's fingerprint covers images and labels.
        config: How to caption.
        modality: As used.
        writer: Identity of the models or files that took part; empty if none did.
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


def _none(problems: tuple[Problem, ...], quarantine_file: Path | None) -> DataError:
    drafts = f"; the rejected drafts are in {quarantine_file}" if quarantine_file is not None else ""
    return DataError(f"none of {len(problems)} images could be captioned; the first: {problems[0]}{drafts}")
