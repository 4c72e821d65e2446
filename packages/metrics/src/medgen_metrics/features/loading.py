"""Extractors by name."""

from collections.abc import Callable
from pathlib import Path

from medgen_metrics.features.efficientnet import EfficientNetLite0Extractor
from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.features.random_network import RandomExtractor


def load_extractor(name: str, *, weights_file: Path | None = None, device: str = "cpu") -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: A key of `EXTRACTORS`, or "random:SEED".
        weights_file: Weights to use instead of the installed ones.
        device: Where to compute.

    Raises:
        ValueError: If there is no such extractor.
        MissingWeightsError: If its weights are not on this machine.
    """
    kind, _, seed = name.partition(":")
    if kind == "random" and seed.isdecimal():
        if weights_file is not None:
            raise ValueError(f"{name} draws its weights; leave weights_file out")
        return RandomExtractor(int(seed), device=device)
    if name not in EXTRACTORS:
        raise ValueError(f"no extractor {name!r}; expected one of {', '.join(EXTRACTORS)} or random:SEED")
    return EXTRACTORS[name](weights_file, device)


EXTRACTORS: dict[str, Callable[[Path | None, str], FeatureExtractor]] = {
    "efficientnet-lite0": lambda weights_file, device: EfficientNetLite0Extractor(
        weights_file, device=device
    ),
}
