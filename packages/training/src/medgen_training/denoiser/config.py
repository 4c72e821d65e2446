"""Settings of the denoiser's training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medgen_training.augmentation import ColourJitter
from medgen_training.losses import LossKind
from medgen_training.schedules import LrSchedule

Selection = Literal["last", "validation-loss"]


class DenoiserConfig(BaseModel):
    """How the denoiser is trained; the defaults suit `msdm-tiny`.

    `selection` says which weights become the model: the last ones, or those with the lowest loss on the
    validation split at fixed noise. `vb_weight` weighs the variational bound where the variance is learned (DiT).
    `cache: false` encodes at every step, jittering colours anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=800, ge=1)
    batch_size: int = Field(default=48, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    lr_schedule: LrSchedule = "warmup-cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    loss: LossKind = "l2"
    vb_weight: float = Field(default=1.0, ge=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    context_dropout: float = Field(default=0.1, ge=0, lt=1)
    self_conditioning_probability: float = Field(default=0.5, ge=0, le=1)
    cache: bool = True
    num_variants: int = Field(default=1, ge=1)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, lt=1)
    selection: Selection = "last"
    validate_every: int = Field(default=100, ge=1)
    checkpoint_every: int = Field(default=200, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)

    @property
    def jitter(self) -> ColourJitter:
        """How colours are jittered."""
        return ColourJitter(self.brightness, self.contrast, self.saturation)
