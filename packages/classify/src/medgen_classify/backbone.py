"""The networks that classify: a tiny one for laptops and tests, or any image classifier of transformers.

Shapes: B batch, S side of the square input in pixels, K classes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgen_classify.config import TINY, ClassifyConfig

logger = logging.getLogger(__name__)

TINY_IMAGE_SIZE = 64


class MissingBackboneError(FileNotFoundError):
    """The weights of a backbone are not on this machine; the message names the ways to get them."""


class TinyNet(nn.Module):
    """A small convolutional classifier that learns from a few hundred images in seconds.

    Four strided convolutions, then one linear layer on a 4 x 4 map that is *not* pooled to a point: where
    something lies in the image stays readable. Group norm, so a result never depends on the batch.
    """

    def __init__(self, num_classes: int, *, image_size: int = TINY_IMAGE_SIZE, width: int = 64) -> None:
        super().__init__()
        if image_size % TINY_IMAGE_SIZE:
            raise ValueError(
                f"backbone 'tiny' needs an image_size that is a multiple of 64, got {image_size}"
            )
        channels = [3, width // 4, width // 2, width, width]
        self.stages = nn.Sequential(
            *(_stage(*pair) for pair in pairwise(channels)),
            nn.AvgPool2d(image_size // TINY_IMAGE_SIZE),
        )
        self.head = nn.Linear(width * 4 * 4, num_classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits [B, K] of pixel values [B, 3, S, S]."""
        return self.head(self.stages(pixel_values).flatten(1))


def _stage(num_in: int, num_out: int) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, kernel_size=3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(8, num_out), nn.GELU())


@dataclass(frozen=True)
class Backbone:
    """A network and the pixels it expects.

    Attributes:
        network: [B, 3, S, S] -> logits [B, K], or an output of transformers that holds them.
        image_size: S.
        image_mean: Per channel, of images in [0, 1].
        image_std: Per channel.
    """

    network: nn.Module
    image_size: int
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def logits(self, intensities: Tensor) -> Tensor:
        """Normalise and classify.

        Args:
            intensities: Images in [0, 1], [B, 3, S, S].

        Returns:
            Logits, [B, K].
        """
        mean = intensities.new_tensor(self.image_mean).view(3, 1, 1)
        std = intensities.new_tensor(self.image_std).view(3, 1, 1)
        output = self.network((intensities - mean) / std)
        return output if isinstance(output, Tensor) else output.logits


def build_backbone(config: ClassifyConfig, classes: Sequence[str]) -> Backbone:
    """Build the network of a config with a fresh head for these classes.

    New weights come from torch's global generator, as transformers draws them; the trainer seeds and
    restores it around this call.

    Raises:
        MissingBackboneError: If the weights cannot be found.
        ValueError: If `image_size` does not suit the backbone.
    """
    if config.backbone == TINY:
        image_size = config.image_size or TINY_IMAGE_SIZE
        return Backbone(TinyNet(len(classes), image_size=image_size), image_size)
    return _pretrained(config, classes)


def _pretrained(config: ClassifyConfig, classes: Sequence[str]) -> Backbone:
    from transformers import AutoModelForImageClassification

    try:
        network = AutoModelForImageClassification.from_pretrained(
            config.backbone,
            num_labels=len(classes),
            id2label=dict(enumerate(classes)),
            label2id={name: index for index, name in enumerate(classes)},
            ignore_mismatched_sizes=True,  # a head for other classes is replaced, not an error
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingBackboneError(
            f"backbone {config.backbone!r} could not be loaded ({reason}); either give a local folder with "
            "config.json and model.safetensors, or set HF_HOME to a cache that holds the model, or run once "
            "with network access so that it is downloaded; backbone 'tiny' needs no weights"
        ) from error
    preprocessing = _preprocessing(config.backbone)
    return Backbone(
        network,
        _image_size(config, network.config, preprocessing),
        image_mean=_three(preprocessing.get("image_mean", 0.5)),
        image_std=_three(preprocessing.get("image_std", 0.5)),
    )


def _preprocessing(backbone: str) -> Mapping[str, Any]:
    """Return what the model says about its pixels; most ViT checkpoints expect [-1, 1]."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        preprocessing, _ = ImageProcessingMixin.get_image_processor_dict(backbone)
    except OSError:
        logger.warning(
            "%s has no preprocessor_config.json; pixel values are taken to be in [-1, 1]", backbone
        )
        return {}
    return preprocessing


def _image_size(config: ClassifyConfig, model_config: Any, preprocessing: Mapping[str, Any]) -> int:
    native = getattr(model_config, "image_size", None)
    if isinstance(native, int):
        if config.image_size not in (None, native):
            raise ValueError(
                f"backbone {config.backbone!r} takes images of {native} pixels, got image_size "
                f"{config.image_size}; leave image_size out"
            )
        return native
    size = preprocessing.get("size")
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    chosen = config.image_size or size
    if not isinstance(chosen, int):
        raise ValueError(f"backbone {config.backbone!r} does not state its image size; set image_size")
    return chosen


def _three(value: float | Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = [value] * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)


def rebuild_network(config: ClassifyConfig, num_classes: int, image_size: int, model_dir: Path) -> nn.Module:
    """Build the network of a saved classifier without its weights; nothing is looked up elsewhere."""
    if config.backbone == TINY:
        return TinyNet(num_classes, image_size=image_size)
    from transformers import AutoConfig, AutoModelForImageClassification

    model_config = AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
    return AutoModelForImageClassification.from_config(model_config, trust_remote_code=False)
