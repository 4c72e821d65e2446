"""One run in n processes: which records are whose, and how their captions become one file.

A record belongs to the shard that the hash of its image file names, so two images of one content are always in one
process, and n processes that share a cache never ask for the same answer twice. Each shard leaves its captions in a
part beside the target, `captions.shard-1-of-4.jsonl`, and its problems last, which says that it is done. Whoever is
done last puts the parts together; a run without shards does so too, whatever parts are there.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medgen_data.atomic import write_jsonl_atomic
from medgen_data.captions import CaptionRow, read_captions
from medgen_data.fingerprint import file_sha256
from medgen_data.image_folder import ImageDataset
from medgen_data.jsonl import iterate_jsonl
from medgen_data.problems import DataError, Problem
from medgen_data.records import ImageRecord

from medgen_captioning.quarantine import quarantine_file_of

_PART = re.compile(r"\.shard-(\d+)-of-(\d+)\.jsonl$")


@dataclass(frozen=True)
class Assembled:
    """The parts of all shards, put together.

    Attributes:
        problems: Images without a caption.
        quarantine_file: Rejected drafts; None if there are none.
    """

    problems: tuple[Problem, ...]
    quarantine_file: Path | None


def take_shard(dataset: ImageDataset, shard: tuple[int, int]) -> ImageDataset:
    """Return the records of `shard` (i, n), which may be none; i counts from 0.

    Raises:
        ValueError: If not 0 <= i < n.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {shard}")
    if count == 1:
        return dataset
    mine = tuple(record for record in dataset.records if _place(dataset, record) % count == index)
    return ImageDataset(dataset.root, dataset.card, mine)


def part_of(captions_file: Path, shard: tuple[int, int]) -> Path:
    """Return where a shard leaves its captions.

    >>> part_of(Path("a/captions.jsonl"), (0, 4)).as_posix()
    'a/captions.shard-1-of-4.jsonl'
    """
    index, count = shard
    if count == 1:
        return captions_file
    return captions_file.with_name(f"{captions_file.stem}.shard-{index + 1}-of-{count}.jsonl")


def parts_there(captions_file: Path) -> list[Path]:
    """Return the parts beside a target, whatever their number."""
    stem = captions_file.stem
    names = (file for file in captions_file.parent.glob(f"{_escaped(stem)}.shard-*-of-*.jsonl"))
    return sorted(file for file in names if _PART.sub("", file.name) == stem)


def finish_part(part: Path, problems: Iterable[Problem]) -> None:
    """Say that a shard is done, and what it could not caption."""
    write_jsonl_atomic(problems_of(part), (problem.model_dump(mode="json") for problem in problems))


def assemble(
    dataset: ImageDataset, captions_file: Path, num_shards: int, earlier: Iterable[CaptionRow]
) -> Assembled | int:
    """Put the parts of all shards together, in the order of the data set.

    Returns:
        What is in them; or how many are not done yet, and then nothing was written here.

    Args:
        dataset: The whole data set.
        captions_file: Target.
        num_shards: Parts to wait for.
        earlier: Rows that were in the target before.
    """
    parts = [part_of(captions_file, (index, num_shards)) for index in range(num_shards)]
    missing = sum(not problems_of(part).is_file() for part in parts)
    if missing:
        return missing
    rows = {row.record_id: row for row in earlier}
    problems: list[Problem] = []
    quarantined: list[dict[str, object]] = []
    try:
        for part in parts:
            rows |= read_captions(part) if part.is_file() else {}
            problems += [problem for _, problem in iterate_jsonl(problems_of(part), Problem)]
            quarantined += _json_lines(quarantine_file_of(part))
    except (DataError, FileNotFoundError):
        if all(problems_of(part).is_file() for part in parts):
            raise
        return 0  # another shard, done in the same moment, has put them together
    places = {record.file_name: place for place, record in enumerate(dataset.records)}
    problems.sort(key=lambda problem: places.get(problem.file, -1))
    quarantined.sort(key=lambda row: places[str(row["file_name"])])
    ordered = [rows[record.record_id] for record in dataset.records if record.record_id in rows]
    quarantine_file = quarantine_file_of(captions_file)
    if quarantined:
        write_jsonl_atomic(quarantine_file, quarantined)
    else:
        quarantine_file.unlink(missing_ok=True)
    if ordered:
        write_jsonl_atomic(captions_file, (row.model_dump(mode="json") for row in ordered))
    remove_parts(parts)
    return Assembled(tuple(problems), quarantine_file if quarantined else None)


def remove_parts(parts: Iterable[Path]) -> None:
    """Delete parts, and what lies beside them: it is in the target."""
    for part in parts:
        for file in (part, quarantine_file_of(part), problems_of(part)):
            with contextlib.suppress(FileNotFoundError):
                file.unlink()


def _place(dataset: ImageDataset, record: ImageRecord) -> int:
    try:
        digest = file_sha256(dataset.image_file(record))
    except (ValueError, OSError):  # a problem of the shard that it falls to
        digest = hashlib.sha256(record.record_id.encode()).hexdigest()
    return int(digest[:16], 16)


def problems_of(part: Path) -> Path:
    """Return where a part says that it is done, and what it could not caption."""
    return part.with_name(f"{part.stem}.problems.jsonl")


def _json_lines(file: Path) -> list[dict[str, object]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
