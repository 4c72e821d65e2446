"""Noise processes <-> diffusers scheduler configs: how a process is read from, and written to, a model folder."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from medgen_models.diffusion import Diffusion
from medgen_models.errors import UnusableModelError

_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
_SCHEDULES = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


def diffusion_to_scheduler(diffusion: Diffusion) -> DDIMScheduler:
    """Write a diffusion process as the diffusers scheduler of the same schedule."""
    return DDIMScheduler(
        num_train_timesteps=diffusion.num_timesteps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        beta_schedule=_SCHEDULES[diffusion.beta_schedule],
        prediction_type=_PREDICTIONS[diffusion.prediction_type],
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def scheduler_to_diffusion(scheduler: Any) -> Diffusion:
    """Read the diffusion process back from a scheduler."""
    return config_to_diffusion(scheduler.config, source=type(scheduler).__name__)


def config_to_diffusion(config: Mapping[str, Any], *, source: str) -> Diffusion:
    """Read a diffusion process from the config of any diffusers scheduler.

    Args:
        config: Content of `scheduler_config.json`.
        source: How messages call it.

    Raises:
        UnusableModelError: If the schedule or the prediction type is none of those known here.
    """
    return Diffusion(
        prediction_type=_named(_PREDICTIONS, config, "prediction_type", "epsilon", source),
        beta_schedule=_named(_SCHEDULES, config, "beta_schedule", "linear", source),
        beta_start=config.get("beta_start", 1e-4),
        beta_end=config.get("beta_end", 0.02),
        num_timesteps=config.get("num_train_timesteps", 1000),
    )


def _named(names: Mapping[str, str], config: Mapping[str, Any], field: str, default: str, source: str) -> Any:
    value = config.get(field, default)
    for ours, theirs in names.items():
        if value == theirs:
            return ours
    raise UnusableModelError(f"{source}: {field} is {value!r}; expected one of {', '.join(names.values())}")
