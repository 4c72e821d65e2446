"""Images -> features: each distinct image is decoded once, and encoded never again while the cache lives.

Every finished batch goes to disk before the next one starts, so a killed run loses no more than the batch it
was at.

Shapes: N images, B images of a batch, S the size a network takes, D feature width.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.encoding import Encoder, open_encoders, prepare
from medgen_metrics.feature_files import FeatureSet
from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.image_decoding import (
    FULL_16_BIT,
    ImageFacts,
    ImageFileError,
    decode_image,
    inspect_image,
    read_image_bytes,
)
from medgen_metrics.image_tensors import as_uint8_images
from medgen_metrics.preprocessing import Preprocessing

_DECODING_THREADS = 4
_RANGE = re.compile(r"^16-bit \d+\.\.\d+, ")
OnProgress = Callable[[int, int], None]


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
    on_progress: OnProgress | None = None,
) -> ExtractedSet:
    """Encode image files, taking from the cache what it holds.

    Args:
        image_files: The set, files or members of zip archives; a path may come twice, and counts twice.
        extractor: The network.
        features_dir: Where features are cached.
        batch_size: Images per forward pass.
        sixteen_bit_range: Grey values of 16-bit images that become 0 and 255.
        on_progress: Called with (images ready, images in all).

    Raises:
        ImageFileError: If a file cannot be decoded; what was encoded before it is kept in the cache.
        ValueError: If the list is empty.
    """
    extracted = extract_many(
        image_files,
        [extractor],
        features_dir=features_dir,
        batch_size=batch_size,
        sixteen_bit_range=sixteen_bit_range,
        on_progress=on_progress,
    )
    return extracted[extractor.id]


def extract_many(
    image_files: Sequence[Path],
    extractors: Sequence[FeatureExtractor],
    *,
    features_dir: Path,
    batch_size: int = 32,
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT,
    on_progress: OnProgress | None = None,
) -> dict[str, ExtractedSet]:
    """Encode image files by several networks, decoding each image once.

    The features are those of `extract_features` for each network alone, byte for byte: every network sees
    the images it has not seen yet, in the same order and the same batches.

    Args:
        image_files: The set, files or members of zip archives; a path may come twice, and counts twice.
        extractors: The networks, with unequal ids.
        features_dir: Where features are cached, a folder for each feature space.
        batch_size: Images per forward pass.
        sixteen_bit_range: Grey values of 16-bit images that become 0 and 255.
        on_progress: Called with (features ready, features in all); an image has one for each network.

    Returns:
        The set by extractor id.

    Raises:
        ImageFileError: If a file cannot be decoded; what was encoded before it is kept in the cache.
        ValueError: If there are no files, no extractors, or two of one id.
    """
    if not image_files:
        raise ValueError("expected at least one image file, got an empty list")
    files = tuple(_inspect(Path(image_file)) for image_file in image_files)
    # The range changes nothing in an 8-bit set, whose features stay shared and comparable.
    has_16_bit = any(image.facts.is_16_bit for image in files)
    decoding = _decoding_name(sixteen_bit_range if has_16_bit else FULL_16_BIT)
    encoders = open_encoders(extractors, features_dir, batch_size, decoding)
    distinct = {image.sha256: image for image in files}
    missing = [image for sha256, image in distinct.items() if any(e.lacks(sha256) for e in encoders)]
    progress = _Progress(len(files) * len(encoders), on_progress)
    # Copies of an image are ready with their first: only first ones are ever waited for.
    progress.add(
        progress.total - sum(encoder.lacks(image.sha256) for encoder in encoders for image in missing)
    )
    for image, prepared in _decoded(missing, encoders, batch_size, sixteen_bit_range):
        for encoder in encoders:
            progress.add(encoder.push(image.sha256, prepared))
    for encoder in encoders:
        progress.add(encoder.finish())
    sha256s = [image.sha256 for image in files]
    names = tuple(image.file.as_posix() for image in files)
    return {encoder.extractor.id: ExtractedSet(files, encoder.gather(sha256s, names)) for encoder in encoders}


def extract_batches(
    batches: Iterable[Tensor | NDArray[np.generic] | Sequence[NDArray[np.generic]]],
    extractors: Sequence[FeatureExtractor],
    *,
    value_range: tuple[float, float] | None = None,
    sixteen_bit_range: tuple[int, int] | None = None,
    features_dir: Path | None = None,
    batch_size: int = 32,
) -> dict[str, FeatureSet]:
    """Encode images that come in batches, from a generator or a data loader; no batch is kept.

    Args:
        batches: Tensors [B, 3, H, W] or arrays [B, H, W, 3]; sizes may differ between batches.
        extractors: The networks, with unequal ids.
        value_range: Float values that become 0 and 255, e.g. (0, 1) or (-1, 1); see `as_uint8_images`.
        sixteen_bit_range: uint16 values that become 0 and 255.
        features_dir: Where features are cached by pixel content; None: nowhere.
        batch_size: Images per forward pass, whatever the size of the batches.

    Returns:
        Features by extractor id, in the order the images came; they are named by their place, "0", "1", ...

    Raises:
        ValueError: If there are no images, no extractors, two of one id, or a batch is no batch of images.
    """
    if features_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            return extract_batches(
                batches,
                extractors,
                value_range=value_range,
                sixteen_bit_range=sixteen_bit_range,
                features_dir=Path(folder),
                batch_size=batch_size,
            )
    # Pixels are hashed after scaling, but two ranges must not share a name: their features do not compare.
    decoding = _decoding_name(sixteen_bit_range or FULL_16_BIT)
    encoders = open_encoders(extractors, features_dir, batch_size, decoding)
    sha256s: list[str] = []
    for batch in batches:
        images = as_uint8_images(batch, value_range=value_range, sixteen_bit_range=sixteen_bit_range)
        for image in images.cpu():
            sha256s.append(_pixels_sha256(image))
            wanting = [encoder for encoder in encoders if encoder.lacks(sha256s[-1])]
            prepared = prepare(image, wanting)
            for encoder in wanting:
                encoder.push(sha256s[-1], prepared)
    if not sha256s:
        raise ValueError("expected at least one batch of images, got none")
    names = tuple(str(index) for index in range(len(sha256s)))
    for encoder in encoders:
        encoder.finish()
    return {encoder.extractor.id: encoder.gather(sha256s, names) for encoder in encoders}


class _Progress:
    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self.total = total
        self._done = 0
        self._on_progress = on_progress
        self._started = False

    def add(self, num_done: int) -> None:
        """Report, if there is news."""
        self._done += num_done
        if self._on_progress is not None and (num_done or not self._started):
            self._on_progress(self._done, self.total)
        self._started = True


def share_decoding(first: FeatureSet, second: FeatureSet) -> tuple[FeatureSet, FeatureSet]:
    """Give a set without 16-bit images the name of the range by which the other's were read.

    Real scans of 12 bits and synthetic images of 8 are the usual pair. The range changes nothing in 8-bit images,
    so these features are the ones they would have under that name too.
    """
    names = first.space.preprocessing, second.space.preprocessing
    longer = max(names, key=len)
    if _RANGE.sub("", longer, count=1) == min(names, key=len):
        first, second = (
            replace(one, space=replace(one.space, preprocessing=longer)) for one in (first, second)
        )
    return first, second


def _decoding_name(sixteen_bit_range: tuple[int, int]) -> str:
    lowest, highest = sixteen_bit_range
    return "" if sixteen_bit_range == FULL_16_BIT else f"16-bit {lowest}..{highest}"


def _inspect(image_file: Path) -> ImageFile:
    content = read_image_bytes(image_file)
    return ImageFile(image_file, hashlib.sha256(content).hexdigest(), inspect_image(content, image_file))


def _decoded(
    images: Sequence[ImageFile],
    encoders: Sequence[Encoder],
    batch_size: int,
    sixteen_bit_range: tuple[int, int],
) -> Iterator[tuple[ImageFile, dict[Preprocessing, Tensor]]]:
    """Yield files with what the networks that lack them take; the next ones are decoded meanwhile."""

    def decode(image: ImageFile, wanting: Sequence[Encoder]) -> dict[Preprocessing, Tensor]:
        content = read_image_bytes(image.file)
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise ImageFileError(image.file, "changed while the set was being read; run again")
        return prepare(decode_image(content, image.file, sixteen_bit_range=sixteen_bit_range), wanting)

    # Who lacks what is settled before the first push: worker threads see no changing cache.
    remaining = iter([(image, [e for e in encoders if e.lacks(image.sha256)]) for image in images])
    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        ahead = list(islice(remaining, batch_size))
        decoding = [pool.submit(decode, *work) for work in ahead]
        while ahead:
            next_ahead = list(islice(remaining, batch_size))
            next_decoding = [pool.submit(decode, *work) for work in next_ahead]
            for (image, _), future in zip(ahead, decoding, strict=True):
                yield image, future.result()
            ahead, decoding = next_ahead, next_decoding


def _pixels_sha256(image: Tensor) -> str:
    # The shape is hashed too; the prefix keeps pixels apart from the bytes of files.
    digest = hashlib.sha256(f"pixels {tuple(image.shape)}\n".encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()
