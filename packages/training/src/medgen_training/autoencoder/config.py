"""Settings of the autoencoder's training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medgen_training.augmentation import ColourJitter
from medgen_training.schedules import LrSchedule

Start = Literal["auto", "random", "principal-components"]


class AutoencoderConfig(BaseModel):
    """How the autoencoder is trained.

    The loss of the image and of the half-size image of deep supervision is a weighted sum of mean squared error,
    mean absolute error and 1 - SSIM, each a mean over pixels, plus `kl_weight` times the KL divergence
    summed over the latents. The defaults suit `msdm-tiny`.

    `start: principal-components` sets the first weights so that the autoencoder is the best linear one for the
    training images; `auto` does so where the architecture can (`msdm-tiny`), and starts at random elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Start = "auto"
    num_steps: int = Field(default=250, ge=1)
    batch_size: int = Field(default=24, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    lr_schedule: LrSchedule = "warmup-cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    mse_weight: float = Field(default=1.0, ge=0)
    l1_weight: float = Field(default=0.3, ge=0)
    ssim_weight: float = Field(default=0.5, ge=0)
    half_size_weight: float = Field(default=0.5, ge=0)
    kl_weight: float = Field(default=1e-6, ge=0)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, lt=1)
    checkpoint_every: int = Field(default=100, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)

    @property
    def jitter(self) -> ColourJitter:
        """How colours are jittered."""
        return ColourJitter(self.brightness, self.contrast, self.saturation)
