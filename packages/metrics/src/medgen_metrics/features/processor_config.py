"""How a Hugging Face model wants its images: `preprocessor_config.json`, read without transformers.

Only what can be reproduced exactly is read: resize with one of Pillow's filters, centre crop, normalisation.
Anything else is refused, since another resize is another score.
"""

import json
from pathlib import Path
from typing import Any

from medgen_metrics.preprocessing import Preprocessing, Resize

_RESAMPLE: dict[int, Resize] = {
    0: "nearest-pillow",
    1: "lanczos-pillow",
    2: "bilinear-pillow",
    3: "bicubic-pillow",
    4: "box-pillow",
    5: "hamming-pillow",
}


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read how the model's own processor prepares an image.

    Raises:
        ValueError: If there is no preprocessor_config.json, a field is missing, or it asks for something
            that is not resize, centre crop and normalisation.
    """
    config_file = folder / "preprocessor_config.json"
    if config_file.is_file():
        config = read_json_object(config_file)
    else:
        config_file = folder / "processor_config.json"
        config = read_json_object(config_file).get("image_processor", {}) if config_file.is_file() else {}
    if not config:
        raise ValueError(f"{folder}: no preprocessor_config.json; copy it from the repository of the model")
    if config.get("do_resize") is False or config.get("crop_pct") is not None or config.get("do_pad"):
        raise ValueError(f"{config_file}: only plain resizing and centre crops are known, got {config}")
    resample = _field(config, "resample", config_file)
    if resample not in _RESAMPLE:
        raise ValueError(f"{config_file}: resample must be 0..5 (Pillow's filters), got {resample!r}")
    size, shortest_edge = _sizes(config, config_file)
    mean, std = _normalisation(config, config_file)
    return Preprocessing(size, mean, std, _RESAMPLE[resample], shortest_edge)


def _sizes(config: dict[str, Any], config_file: Path) -> tuple[int, int | None]:
    """Return the side of the network's input and, if there is a crop, the shorter side before it."""
    size = _field(config, "size", config_file)
    is_shortest = isinstance(size, dict) and "shortest_edge" in size
    side = size["shortest_edge"] if is_shortest else _square(size, "size", config_file)
    if not config.get("do_center_crop"):
        if is_shortest:
            raise ValueError(f"{config_file}: shortest_edge without do_center_crop gives no fixed size")
        return side, None
    crop = _square(_field(config, "crop_size", config_file), "crop_size", config_file)
    if not is_shortest and crop != side:
        raise ValueError(f"{config_file}: a crop of {crop} from a square of {side} is not known")
    return crop, side if is_shortest else None


def _square(size: Any, field: str, config_file: Path) -> int:
    sides = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if not isinstance(sides[0], int) or sides[0] != sides[1]:
        raise ValueError(f"{config_file}: {field} must be a number or equal height and width, got {size}")
    return sides[0]


def _normalisation(
    config: dict[str, Any], config_file: Path
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation in units of 0..255."""
    factor = float(_field(config, "rescale_factor", config_file)) if config.get("do_rescale", True) else 1.0
    if config.get("do_normalize", True):
        mean, std = (_field(config, field, config_file) for field in ("image_mean", "image_std"))
    else:
        mean, std = [0.0] * 3, [1.0] * 3
    if len(mean) != 3 or len(std) != 3 or factor <= 0 or min(std) <= 0:
        raise ValueError(f"{config_file}: expected three means and deviations, got {mean} and {std}")
    return (
        (mean[0] / factor, mean[1] / factor, mean[2] / factor),
        (std[0] / factor, std[1] / factor, std[2] / factor),
    )


def _field(config: dict[str, Any], field: str, config_file: Path) -> Any:
    if config.get(field) is None:
        raise ValueError(f"{config_file}: has no {field!r}; copy the file from the repository of the model")
    return config[field]


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON object, naming the file if that fails.

    Raises:
        ValueError: If it is no JSON, or no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected an object, got {type(content).__name__}")
    return content
