"""Statistics on disk: what a Frechet distance needs of an image set, without the images and their features.

A file holds count, mean, covariance and the feature space. Hospitals that cannot share images can share it: a
covariance of N images has no single one in it, as long as N is well above one (see `least` below).

Shapes: D feature width.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medgen_metrics.atomic import write_atomic
from medgen_metrics.feature_files import FeatureFileError, FeatureSpace, require_same_space
from medgen_metrics.feature_statistics import FeatureStatistics, fit_statistics
from medgen_metrics.frechet import frechet_distance_of_statistics

_FORMAT = "medgen-statistics-1"


@dataclass(frozen=True)
class StatisticsSet:
    """Statistics of one image set and the space of the features they were fitted to."""

    statistics: FeatureStatistics
    space: FeatureSpace

    def __post_init__(self) -> None:
        dim = self.space.dim
        shapes = tuple(self.statistics.mean.shape), tuple(self.statistics.covariance.shape)
        if shapes != ((dim,), (dim, dim)):
            raise FeatureFileError(
                f"statistics of a space with dim {dim} must be mean [{dim}] and covariance [{dim}, {dim}], "
                f"got {list(shapes[0])} and {list(shapes[1])}"
            )


def fit_statistics_set(features: Tensor, space: FeatureSpace) -> StatisticsSet:
    """Fit the statistics of a feature table, [N >= 2, D], and keep its space with them."""
    return StatisticsSet(fit_statistics(features), space)


def frechet_distance_of_sets(real: StatisticsSet, synthetic: StatisticsSet) -> float:
    """Return the Frechet distance between two statistics of one feature space.

    Raises:
        FeatureFileError: If extractor, weights, preprocessing or width differ; says which.
    """
    require_same_space(real.space, synthetic.space)
    return frechet_distance_of_statistics(real.statistics, synthetic.statistics)


def write_statistics(statistics_file: Path, statistics_set: StatisticsSet, *, least: int = 50) -> None:
    """Write statistics as safetensors with the feature space and a content hash in the header; atomic.

    Args:
        statistics_file: Where to write.
        statistics_set: What to write.
        least: Fewest images allowed. The mean of very few images gives single ones away.

    Raises:
        ValueError: If there are fewer than `least` images.
    """
    statistics = statistics_set.statistics
    if statistics.num_samples < least:
        raise ValueError(
            f"{statistics_file}: statistics of {statistics.num_samples} images may give single images away; "
            f"expected at least {least}, or set `least` lower if the images are public"
        )
    tensors = {
        "mean": statistics.mean.detach().cpu().double().contiguous(),
        "covariance": statistics.covariance.detach().cpu().double().contiguous(),
    }
    header = {
        "format": _FORMAT,
        "num_samples": str(statistics.num_samples),
        "space": json.dumps(dataclasses.asdict(statistics_set.space)),
    }
    header["content_sha256"] = _content_sha256(tensors, header)
    write_atomic(statistics_file, save(tensors, metadata=header))


def read_statistics(statistics_file: Path) -> StatisticsSet:
    """Read statistics and verify their content hash.

    Raises:
        FeatureFileError: If the file is missing, of another format, or damaged.
    """
    if not statistics_file.is_file():
        raise FeatureFileError(f"{statistics_file}: no such statistics file")
    try:
        with safe_open(statistics_file, framework="pt") as opened:
            header = dict(opened.metadata() or {})
            if header.get("format") != _FORMAT:
                raise FeatureFileError(
                    f"{statistics_file}: expected format {_FORMAT!r}, got {header.get('format')!r}; "
                    "write_statistics makes such files"
                )
            tensors = {name: opened.get_tensor(name) for name in ("mean", "covariance")}
    except SafetensorError as error:
        raise FeatureFileError(f"{statistics_file}: cannot be read ({error}); get it again") from error
    if header.pop("content_sha256", "") != _content_sha256(tensors, header):
        raise FeatureFileError(
            f"{statistics_file}: content does not match its hash, the file is damaged; get it again"
        )
    fields = json.loads(header["space"])
    for name, value in fields.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    statistics = FeatureStatistics(tensors["mean"], tensors["covariance"], int(header["num_samples"]))
    return StatisticsSet(statistics, FeatureSpace(**fields))


def _content_sha256(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
