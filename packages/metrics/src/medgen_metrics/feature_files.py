"""Features on disk: one file per image set, and a cache that computes the feature of an image once.

The cache is keyed by content: the bytes of the image, the weights of the extractor and the preprocessing. A
renamed image is found again, an edited one is not, and no user-given name can bring back the features of
something else. Shards are only ever added, each written aside and renamed, so a killed run loses at most one
shard of work.

Shapes: N images, D feature width.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medgen_metrics.atomic import write_atomic
from medgen_metrics.features.protocol import FeatureExtractor

logger = logging.getLogger(__name__)

_FORMAT = "medgen-features-1"


class FeatureFileError(ValueError):
    """A feature file that is damaged, or two that do not belong together."""


@dataclass(frozen=True)
class FeatureSpace:
    """What makes two feature vectors comparable."""

    extractor_id: str
    extractor_sha256: str
    preprocessing: str
    dim: int
    comparable: bool = True  # False for random weights: comparable within one run only
    extractor_revision: str | None = None  # commit of the hub repository; says whence, not what
    cautions: tuple[str, ...] = ()  # what a reader of any score in this space should know


@dataclass(frozen=True)
class FeatureSet:
    """Features of one image set and the space they live in."""

    features: Tensor  # [N, D] float32
    record_ids: tuple[str, ...]
    space: FeatureSpace

    def __post_init__(self) -> None:
        expected = (len(self.record_ids), self.space.dim)
        if tuple(self.features.shape) != expected:
            raise FeatureFileError(
                f"features must be [num_record_ids, dim] = {expected}, got {tuple(self.features.shape)}"
            )


def feature_space(extractor: FeatureExtractor, *, decoding: str = "") -> FeatureSpace:
    """Describe the space of an extractor; `decoding` names what precedes its own preprocessing, if anything."""
    preprocessing = ", ".join(part for part in (decoding, extractor.preprocessing.name) if part)
    return FeatureSpace(
        extractor.id,
        extractor.sha256,
        preprocessing,
        extractor.dim,
        extractor.comparable,
        extractor.revision,
        extractor.cautions,
    )


def require_same_space(real: FeatureSpace, synthetic: FeatureSpace) -> None:
    """Refuse to compare features of two spaces.

    Raises:
        FeatureFileError: If extractor, weights or preprocessing differ; says which.
    """
    for field in ("extractor_id", "extractor_sha256", "preprocessing", "dim"):
        ours, theirs = getattr(real, field), getattr(synthetic, field)
        if ours != theirs:
            raise FeatureFileError(
                f"feature sets cannot be compared: {field} is {ours!r} for the real and {theirs!r} for "
                "the synthetic images; extract both with one extractor and one preprocessing"
            )


def write_features(feature_file: Path, feature_set: FeatureSet) -> None:
    """Write `features` [N, D] float32 with record ids and provenance in the header; atomic."""
    space = feature_set.space
    header = {"record_ids": json.dumps(feature_set.record_ids), **_space_header(space)}
    # Not in the shards of a cache, where one feature may serve several revisions.
    header["cautions"] = json.dumps(space.cautions)
    header |= {} if space.extractor_revision is None else {"extractor_revision": space.extractor_revision}
    _write(feature_file, feature_set.features, header)


def read_features(feature_file: Path) -> FeatureSet:
    """Read a feature file and verify its content hash.

    Raises:
        FeatureFileError: If the file is missing, no feature file, or damaged.
    """
    features, header = _read(feature_file)
    try:
        record_ids = tuple(json.loads(header["record_ids"]))
        space = FeatureSpace(
            extractor_id=header["extractor_id"],
            extractor_sha256=header["extractor_sha256"],
            preprocessing=header["preprocessing"],
            dim=features.shape[1],
            comparable=header["comparable"] == "true",
            extractor_revision=header.get("extractor_revision"),
            cautions=tuple(json.loads(header.get("cautions", "[]"))),
        )
    except KeyError as error:
        raise FeatureFileError(
            f"{feature_file}: header has no {error}; extract the features again"
        ) from error
    return FeatureSet(features, record_ids, space)


class FeatureCache:
    """Features by image content, for one feature space, in a folder of shards."""

    def __init__(self, features_dir: Path, space: FeatureSpace) -> None:
        """Open the cache and index its shards.

        Args:
            features_dir: Folder of caches; each feature space gets its own folder inside.
            space: The extractor and its preprocessing.

        Raises:
            FeatureFileError: If a shard is damaged.
        """
        self.space = space
        identity = json.dumps([space.extractor_id, space.extractor_sha256, space.preprocessing, space.dim])
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.folder = features_dir / f"{re.sub(r'[^A-Za-z0-9._-]', '-', space.extractor_id)}-{key}"
        self._rows: dict[str, Tensor] = {}
        for shard_file in sorted(self.folder.glob("shard-*.safetensors")):
            features, header = _read(shard_file)
            self._rows |= dict(zip(json.loads(header["image_sha256"]), features, strict=True))
        if self._rows:
            logger.info("%s: %d features found", self.folder, len(self._rows))

    def __contains__(self, image_sha256: str) -> bool:
        return image_sha256 in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, image_sha256s: Sequence[str], features: Tensor) -> None:
        """Store features, [N, D], as a new shard; when this returns they are on disk.

        Raises:
            FeatureFileError: If they do not fit the feature space or are not finite.
        """
        if (
            tuple(features.shape) != (len(image_sha256s), self.space.dim)
            or not torch.isfinite(features).all()
        ):
            raise FeatureFileError(
                f"expected finite features [{len(image_sha256s)}, {self.space.dim}] of "
                f"{self.space.extractor_id}, got {tuple(features.shape)} with "
                f"{int((~torch.isfinite(features)).sum())} values NaN or infinite"
            )
        # Named by content: two processes that share a cache never write unequal files of one name.
        name = hashlib.sha256("".join(image_sha256s).encode()).hexdigest()[:20]
        header = {"image_sha256": json.dumps(list(image_sha256s)), **_space_header(self.space)}
        _write(self.folder / f"shard-{name}.safetensors", features, header)
        self._rows |= dict(zip(image_sha256s, features.float(), strict=True))

    def gather(self, image_sha256s: Sequence[str]) -> Tensor:
        """Return the features of these images, [N, D] float32, in this order.

        Raises:
            KeyError: If one is not in the cache.
        """
        return torch.stack([self._rows[image_sha256] for image_sha256 in image_sha256s])


def _space_header(space: FeatureSpace) -> dict[str, str]:
    return {
        "extractor_id": space.extractor_id,
        "extractor_sha256": space.extractor_sha256,
        "preprocessing": space.preprocessing,
        "comparable": "true" if space.comparable else "false",
    }


def _write(feature_file: Path, features: Tensor, header: dict[str, str]) -> None:
    values = features.detach().cpu().float().contiguous()
    header = {"format": _FORMAT, **header}
    header["content_sha256"] = _content_sha256(values, header)
    write_atomic(feature_file, save({"features": values}, metadata=header))


def _read(feature_file: Path) -> tuple[Tensor, dict[str, str]]:
    if not feature_file.is_file():
        raise FeatureFileError(f"{feature_file}: no such feature file")
    remedy = "delete it and run again, its features will be computed anew"
    try:
        with safe_open(feature_file, framework="pt") as opened:
            header = dict(opened.metadata() or {})
            features = opened.get_tensor("features")
    except (SafetensorError, ValueError) as error:
        raise FeatureFileError(f"{feature_file}: cannot be read ({error}); {remedy}") from error
    if header.get("format") != _FORMAT:
        raise FeatureFileError(
            f"{feature_file}: expected format {_FORMAT!r}, got {header.get('format')!r}; {remedy}"
        )
    if header.pop("content_sha256", "") != _content_sha256(features, header):
        raise FeatureFileError(
            f"{feature_file}: content does not match its hash, the file is damaged; {remedy}"
        )
    return features, header


def _content_sha256(features: Tensor, header: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(features.numpy().tobytes())
    return digest.hexdigest()
