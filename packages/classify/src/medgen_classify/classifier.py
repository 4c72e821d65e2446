"""A trained classifier, and its folder on disk.

```
CLASSIFIER/
  classifier.json      config, classes, pixels, what it was trained on
  config.json          only for backbones of transformers, which can load the folder too
  model.safetensors
```
"""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from medgen_data.atomic import write_bytes_atomic, write_json_atomic, write_text_atomic
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from medgen_classify.backbone import Backbone, TinyNet, rebuild_network
from medgen_classify.config import ClassifyConfig

CARD_NAME = "classifier.json"
WEIGHTS_NAME = "model.safetensors"


class TrainingFacts(BaseModel):
    """What a classifier was trained on.

    Attributes:
        name: Name of the training set.
        fingerprint: Of the data set the training images were chosen from.
        generated: Whether a generator made the images.
        num_images: Training images per class.
        seed: Of the training run.
        epoch_losses: Mean cross-entropy of each epoch, in nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    generated: bool
    num_images: dict[str, int]
    seed: int
    epoch_losses: tuple[float, ...]


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode, the classes in the order of its logits, and its origin."""

    config: ClassifyConfig
    classes: tuple[str, ...]
    backbone: Backbone
    training: TrainingFacts
    device: str = "cpu"


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    config: ClassifyConfig
    classes: tuple[str, ...]
    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    training: TrainingFacts


def save_classifier(classifier: Classifier, classifier_dir: Path) -> None:
    """Write a classifier folder as a whole: under another name first, then renamed.

    Raises:
        FileExistsError: If the folder exists and is not a classifier; an older classifier is replaced.
    """
    if classifier_dir.exists() and not (classifier_dir / CARD_NAME).is_file():
        raise FileExistsError(f"{classifier_dir} exists and is not a classifier folder; choose another name")
    token = secrets.token_hex(6)
    partial = classifier_dir.with_name(f".{classifier_dir.name}.{token}.partial")
    old = classifier_dir.with_name(f".{classifier_dir.name}.{token}.old")
    try:
        _write_files(classifier, partial)
        if classifier_dir.exists():
            classifier_dir.rename(old)
        partial.rename(classifier_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_files(classifier: Classifier, folder: Path) -> None:
    backbone = classifier.backbone
    weights = {name: value.cpu().contiguous() for name, value in backbone.network.state_dict().items()}
    write_bytes_atomic(folder / WEIGHTS_NAME, safetensors.torch.save(weights, metadata={"format": "pt"}))
    if not isinstance(backbone.network, TinyNet):
        model_config: Any = backbone.network.config
        write_text_atomic(folder / "config.json", model_config.to_json_string())
    card = _Card(
        config=classifier.config,
        classes=classifier.classes,
        image_size=backbone.image_size,
        image_mean=backbone.image_mean,
        image_std=backbone.image_std,
        training=classifier.training,
    )
    write_json_atomic(folder / CARD_NAME, card.model_dump(mode="json"))


def load_classifier(classifier_dir: Path, *, device: str = "cpu") -> Classifier:
    """Read a classifier folder; nothing but the folder is needed, also for a backbone from the hub.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is malformed, or the weights do not belong to the network.
    """
    for name in (CARD_NAME, WEIGHTS_NAME):
        if not (classifier_dir / name).is_file():
            raise FileNotFoundError(f"{classifier_dir / name} is missing; is this a classifier folder?")
    try:
        card = _Card.model_validate_json((classifier_dir / CARD_NAME).read_bytes())
    except ValidationError as error:
        raise ValueError(f"{classifier_dir / CARD_NAME} is malformed; train again: {error}") from error
    network = rebuild_network(card.config, len(card.classes), card.image_size, classifier_dir)
    try:
        network.load_state_dict(safetensors.torch.load_file(classifier_dir / WEIGHTS_NAME))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{classifier_dir / WEIGHTS_NAME} does not fit {CARD_NAME}; train again: {error}"
        ) from error
    backbone = Backbone(
        network.to(device).eval(), card.image_size, image_mean=card.image_mean, image_std=card.image_std
    )
    return Classifier(card.config, card.classes, backbone, card.training, device)
