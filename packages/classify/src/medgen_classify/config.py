"""What to train: backbone, attribute, optimiser. The defaults follow the backbone."""

from typing import Annotated, Literal

from medgen_data.images import FitPolicy
from pydantic import BaseModel, ConfigDict, Field, model_validator

TINY = "tiny"
PAPER_BACKBONE = "google/vit-base-patch16-224-in21k"

LearningRateSchedule = Literal["constant", "warmup-cosine"]

# Fine-tuning as in Med-Art (table 4: ViT-B/16, AdamW 2e-5, 5 epochs); what the paper leaves open is the
# plain choice: AdamW's own decay, constant rate, no augmentation.
_PRETRAINED_DEFAULTS: dict[str, object] = {
    "epochs": 5,
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "batch_size": 32,
    "schedule": "constant",
    "brightness_jitter": 0.0,
    "contrast_jitter": 0.0,
}


class ClassifyConfig(BaseModel):
    """How a downstream classifier is trained.

    Fields that are not given follow the backbone: the declared defaults are those of `tiny`, which learns
    from random weights; every other backbone is fine-tuned as in Med-Art.

    Attributes:
        backbone: `tiny`, a model name on the hub, or a local folder of an image classifier.
        attribute: What to recognise: `label`, or `facts.NAME` for a fact of the records.
        image_size: Side of the square input in pixels; None is the backbone's own.
        fit: How an image that is not square becomes one.
        epochs: Passes over the training set.
        learning_rate: Peak rate of AdamW.
        weight_decay: Decoupled decay of AdamW.
        batch_size: Images per step.
        schedule: `constant`, or a linear warm-up over a tenth of the steps and a cosine to zero.
        brightness_jitter: Brightness is scaled by 1 +- this much.
        contrast_jitter: Contrast is scaled by 1 +- this much.
        flips: Mirror left-right with probability 1/2. Off: a mirrored image contradicts a label that names
            a place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Annotated[str, Field(min_length=1)] = TINY
    attribute: Annotated[str, Field(pattern=r"^(label|facts\..+)$")] = "label"
    image_size: Annotated[int, Field(ge=16)] | None = None
    fit: FitPolicy = "center-crop"
    epochs: Annotated[int, Field(ge=1)] = 12
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    batch_size: Annotated[int, Field(ge=1)] = 32
    schedule: LearningRateSchedule = "warmup-cosine"
    brightness_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    contrast_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    flips: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_from_backbone(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("backbone", TINY) != TINY:
            return {**_PRETRAINED_DEFAULTS, **given}
        return given


def paper_config(*, attribute: str = "label") -> ClassifyConfig:
    """Return the classifier of Med-Art, table 4: ViT-B/16 pre-trained on ImageNet-21k, AdamW 2e-5, 5 epochs."""
    return ClassifyConfig(backbone=PAPER_BACKBONE, attribute=attribute)
