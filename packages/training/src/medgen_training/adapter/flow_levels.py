"""Noise levels that a flow-matching model (FLUX) is adapted at."""

from typing import Literal

import torch
from medgen_models.diffusion import FlowMatching
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class FlowLevelsConfig(BaseModel):
    """From which density levels s in (0, 1) are drawn (Esser et al. 2024, section 3.1), and how they are shifted.

    Attributes:
        density: `uniform`, or `logit-normal`: s = sigmoid(mean + std n) with n standard normal, mostly levels in
            the middle.
        mean: Of the logit; above 0 is more noise.
        std: Of the logit.
        shift: s -> shift s / (1 + (shift - 1) s) (eq. 23); above 1 is more noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    density: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=1.0, gt=0)

    def draw_timesteps(self, flow: FlowMatching, num_images: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps T s in (0, T], [B] float32.

        Args:
            flow: The paths; what it shifts its sampler's levels by has no part in this.
            num_images: B.
            generator: Source of the levels, on the CPU.
        """
        if self.density == "uniform":
            levels = flow.draw_timesteps(num_images, generator).double() / flow.num_timesteps
        else:
            logits = self.mean + self.std * torch.randn(num_images, generator=generator, dtype=torch.float64)
            levels = logits.sigmoid()
        levels = self.shift * levels / (1 + (self.shift - 1) * levels)
        return (flow.num_timesteps * levels).float()
