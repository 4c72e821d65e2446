"""Image files -> features: each distinct image is encoded once, and never again while the cache lives.

Shapes: N files, B images of a batch, S the size the network takes, D feature width.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from medgen_metrics.feature_files import FeatureCache, FeatureSet, feature_space
from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.image_sets import FULL_16_BIT, ImageFacts, decode_image, inspect_image, read_image_bytes

# Features go to disk in shards of this many images: what a killed run may lose.
_SHARD_SIZE = 512
_DECODING_THREADS = 4


@dataclass(frozen=True)
class ImageFile:
    """One file of a set: its content hash and what its header says."""

    file: Path
    sha256: str
    facts: ImageFacts


@dataclass(frozen=True)
class ExtractedSet:
    """Features of a list of files, in the order of the list."""

    files: tuple[ImageFile, ...]
    feature_set: FeatureSet

    @property
    def fingerprint(self) -> str:
        """Content hash of the set: equal for equal images, whatever their names and order."""
        return hashlib.sha256("\n".join(sorted(image.sha256 for image in self.files)).encode()).hexdigest()


def extract_features(
    image_files: Sequence[Path],
    extractor: FeatureExtractor,
    *,
    features_dir: Path,
    batch_size: int = 32,
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExtractedSet:
    """Encode image files, taking from the cache what it holds.

    Args:
        image_files: The set; a path may come twice, and counts twice.
        extractor: The network.
        features_dir: Where features are cached.
        batch_size: Images per forward pass.
        sixteen_bit_range: Grey values of 16-bit images that become 0 and 255.
        on_progress: Called with (images ready, images in all).

    Raises:
        ImageFileError: If a file cannot be decoded; what was encoded before it is kept in the cache.
        ValueError: If the list is empty.
    """
    if not image_files:
        raise ValueError("expected at least one image file, got an empty list")
    files = tuple(_inspect(Path(image_file)) for image_file in image_files)
    decoding = (
        "" if sixteen_bit_range == FULL_16_BIT else f"16-bit {sixteen_bit_range[0]}..{sixteen_bit_range[1]}"
    )
    # The range changes nothing in an 8-bit set, whose features stay shared and comparable.
    has_16_bit = any(image.facts.is_16_bit for image in files)
    cache = FeatureCache(features_dir, feature_space(extractor, decoding=decoding if has_16_bit else ""))
    missing = [
        image for image in {image.sha256: image for image in files}.values() if image.sha256 not in cache
    ]
    done = len(files) - len(missing)
    report = on_progress or (lambda _done, _total: None)
    report(done, len(files))
    pending: list[tuple[str, Tensor]] = []
    try:
        for batch, pixel_values in _decoded_batches(missing, extractor, batch_size, sixteen_bit_range):
            features = extractor.from_pixel_values(pixel_values)
            pending += [(image.sha256, feature) for image, feature in zip(batch, features, strict=True)]
            if len(pending) >= _SHARD_SIZE:
                _flush(cache, pending)
            done += len(batch)
            report(done, len(files))
    finally:
        _flush(cache, pending)
    feature_set = FeatureSet(
        cache.gather([image.sha256 for image in files]),
        tuple(image.file.as_posix() for image in files),
        cache.space,
    )
    return ExtractedSet(files, feature_set)


def _inspect(image_file: Path) -> ImageFile:
    content = read_image_bytes(image_file)
    return ImageFile(image_file, hashlib.sha256(content).hexdigest(), inspect_image(content, image_file))


def _decoded_batches(
    images: Sequence[ImageFile],
    extractor: FeatureExtractor,
    batch_size: int,
    sixteen_bit_range: tuple[int, int],
) -> Iterator[tuple[list[ImageFile], Tensor]]:
    """Yield batches of files with their pixel values, [B, 3, S, S]; the next batch is decoded meanwhile."""

    def prepare(image: ImageFile) -> Tensor:
        content = read_image_bytes(image.file)
        pixels = decode_image(content, image.file, sixteen_bit_range=sixteen_bit_range)
        # One by one: the images of a set need not have one size before this.
        return extractor.preprocessing(pixels[None])[0]

    remaining = iter(images)
    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        batch = list(islice(remaining, batch_size))
        decoding = [pool.submit(prepare, image) for image in batch]
        while batch:
            next_batch = list(islice(remaining, batch_size))
            next_decoding = [pool.submit(prepare, image) for image in next_batch]
            yield batch, torch.stack([future.result() for future in decoding])
            batch, decoding = next_batch, next_decoding


def _flush(cache: FeatureCache, pending: list[tuple[str, Tensor]]) -> None:
    if pending:
        cache.add([sha256 for sha256, _ in pending], torch.stack([feature for _, feature in pending]))
        pending.clear()
