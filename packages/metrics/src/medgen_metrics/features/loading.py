"""Extractors by name."""

from collections.abc import Callable
from pathlib import Path

from medgen_metrics.features.efficientnet import EfficientNetLite0Extractor
from medgen_metrics.features.inception import PRECISIONS, TAPS, InceptionExtractor, Precision, Tap
from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.features.random_network import RandomExtractor
from medgen_metrics.features.vit import HfVisionExtractor, parse_model_name
from medgen_metrics.preprocessing import RESIZES, Resize


def load_extractor(
    name: str, *, weights_file: Path | str | None = None, device: str = "cpu"
) -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: One of
            - a key of `EXTRACTORS`, e.g. "efficientnet-lite0" or "inception:2048";
            - "inception:LAYER:RESIZE", "inception:LAYER:bfloat16" or both, for another resize or precision
              than those of published scores;
            - "hf:NAME_OR_FOLDER[@REVISION][#cls|pooled|logits]", a vision model on this machine;
            - "random:SEED".
        weights_file: Weights to use instead of the installed ones.
        device: Where to compute.

    Raises:
        ValueError: If there is no such extractor, or it takes no weight file.
        MissingWeightsError: If its weights are not on this machine.
    """
    check_extractor_name(name)
    kind, _, rest = name.partition(":")
    if name in EXTRACTORS:
        return EXTRACTORS[name](weights_file, device)
    inception = _inception_parts(name)
    if inception is not None:
        tap, resize, precision = inception
        return InceptionExtractor(tap, weights_file, device=device, resize=resize, precision=precision)
    if weights_file is not None:
        own = "draws its weights" if kind == "random" else "names its own weights"
        raise ValueError(f"{name} {own}; leave weights_file out")
    if kind == "random":
        return RandomExtractor(int(rest), device=device)
    return HfVisionExtractor(name, device=device)


def check_extractor_name(name: str) -> None:
    """Check that a name is one `load_extractor` takes; whether its weights are there is not looked at.

    Raises:
        ValueError: If it is not; lists the names.
    """
    kind, _, rest = name.partition(":")
    if name in EXTRACTORS or _inception_parts(name) is not None:
        return
    if kind == "random" and rest.isdecimal():
        return
    if kind == "hf":
        parse_model_name(name)
        return
    raise ValueError(
        f"no extractor {name!r}; expected one of {', '.join(EXTRACTORS)}, inception:LAYER:RESIZE, "
        "hf:NAME_OR_FOLDER[@REVISION][#cls|pooled|logits] or random:SEED"
    )


def _inception_parts(name: str) -> tuple[Tap, Resize, Precision] | None:
    """Split "inception:LAYER[:RESIZE][:PRECISION]"; None if it is something else."""
    kind, *parts = name.split(":")
    taps = [tap for tap in TAPS if parts[:1] == [tap]]
    resizes = [resize for resize in RESIZES if resize in parts[1:]]
    precisions = [precision for precision in PRECISIONS if precision in parts[1:]]
    understood = len(taps) + len(resizes) + len(precisions)
    if kind != "inception" or understood != len(parts) or max(len(resizes), len(precisions)) > 1 or not taps:
        return None
    return taps[0], (resizes or ["bilinear-tf1"])[0], (precisions or ["float32"])[0]


def _load_inception(tap: Tap) -> Callable[[Path | str | None, str], FeatureExtractor]:
    return lambda weights_file, device: InceptionExtractor(tap, weights_file, device=device)


EXTRACTORS: dict[str, Callable[[Path | str | None, str], FeatureExtractor]] = {
    "efficientnet-lite0": lambda weights_file, device: EfficientNetLite0Extractor(
        None if weights_file is None else Path(weights_file), device=device
    ),
    **{f"inception:{tap}": _load_inception(tap) for tap in TAPS},
}
