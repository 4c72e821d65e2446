"""Learning-rate schedules as pure functions of the step."""

import math
from typing import Literal

LrSchedule = Literal["constant", "warmup-cosine"]


def lr_factor(schedule: LrSchedule, step: int, num_steps: int, warmup_fraction: float) -> float:
    """Return the factor on the peak learning rate at `step` of `num_steps`, in (0, 1].

    `constant` is constant after the warm-up; `warmup-cosine` falls to zero on a half cosine.
    """
    num_warmup = round(warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    progress = (step - num_warmup) / max(num_steps - num_warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))
