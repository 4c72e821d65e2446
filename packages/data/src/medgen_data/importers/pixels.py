"""Write the pixels of an import, resumably.

A journal notes the hash of each source image and of the PNG that was made of it. A restarted import keeps
a PNG only if both hashes still hold, so neither a kill nor a power cut nor an exchanged source goes unseen.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medgen_data.atomic import flush_files, write_bytes_atomic
from medgen_data.fingerprint import file_sha256
from medgen_data.images import FitPolicy, ImageError, decode_image, encode_png, fit_square
from medgen_data.importers.listing import SourceImage
from medgen_data.problems import Problem

JOURNAL_NAME = ".import-journal.jsonl"


@dataclass(frozen=True)
class WrittenPixels:
    """The source images that are now PNGs, and those that could not be decoded."""

    images: tuple[SourceImage, ...]
    problems: tuple[Problem, ...]


@contextmanager
def write_pixels(
    images: Sequence[SourceImage],
    dataset_dir: Path,
    *,
    size: int,
    policy: FitPolicy,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[WrittenPixels]:
    """Write `images/RECORD_ID.png` for every source image, then yield; the journal goes when the block ends.

    PNGs are flushed to the disk in one go before the block runs: one flush each while writing would take
    longer than decoding.

    Args:
        images: Source images, unique record ids.
        dataset_dir: Data set folder.
        size: Side of the square PNGs, pixels.
        policy: See `medgen_data.images.fit_square`.
        on_progress: Called with the number of images done and their total.
    """
    image_dir = dataset_dir / "images"
    image_dir.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(image_dir, keep={f"{image.record_id}.png" for image in images})
    journal_file = dataset_dir / JOURNAL_NAME
    journal = _read_journal(journal_file)
    written, problems = [], []
    with journal_file.open("ab", buffering=0) as stream:
        # A line that a kill cut off must not swallow the first new one.
        stream.write(b"\n")
        for number, image in enumerate(images, start=1):
            png_file = image_dir / f"{image.record_id}.png"
            try:
                if not _is_done(image, png_file, journal):
                    entry = _write_png(image, png_file, size=size, policy=policy)
                    stream.write(json.dumps(entry).encode("ascii") + b"\n")
                written.append(image)
            except ImageError as error:
                png_file.unlink(missing_ok=True)
                problems.append(Problem(file=image.name, row=image.row, code=error.code, detail=error.detail))
            if on_progress is not None:
                on_progress(number, len(images))
    flush_files(image_dir / f"{image.record_id}.png" for image in written)
    yield WrittenPixels(tuple(written), tuple(problems))
    journal_file.unlink()


def _write_png(image: SourceImage, png_file: Path, *, size: int, policy: FitPolicy) -> dict[str, str]:
    pixels = fit_square(decode_image(image.file), size, policy=policy)
    content = encode_png(pixels)
    write_bytes_atomic(png_file, content, durable=False)
    return {
        "record_id": image.record_id,
        "source_sha256": file_sha256(image.file),
        "png_sha256": hashlib.sha256(content).hexdigest(),
    }


def _is_done(image: SourceImage, png_file: Path, journal: dict[str, tuple[str, str]]) -> bool:
    entry = journal.get(image.record_id)
    if entry is None or not png_file.is_file() or not image.file.is_file():
        return False
    return entry == (file_sha256(image.file), file_sha256(png_file))


def _read_journal(journal_file: Path) -> dict[str, tuple[str, str]]:
    if not journal_file.is_file():
        return {}
    journal = {}
    for line in journal_file.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
            journal[entry["record_id"]] = (entry["source_sha256"], entry["png_sha256"])
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill: that image is simply done again
    return journal


def _remove_leftovers(image_dir: Path, keep: set[str]) -> None:
    """Remove what an interrupted run left behind: temporary files, and images that are no longer wanted."""
    for path in image_dir.iterdir():
        if path.name not in keep:
            path.unlink()
