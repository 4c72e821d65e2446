"""The losses of an adapter's turns.

Shapes: B batch, C latent channels, H x W latent size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medgen_models import Conditioning, Diffusion, TextToImageModel
from torch import Tensor

from medgen_training.adapter.batches import ConditionSource, LatentSource, to_device
from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.adapter.draws import Turns, draw_turns
from medgen_training.cache import PromptTable
from medgen_training.colour_statistics import ColourStatistics
from medgen_training.losses import min_snr_weights, prediction_loss


@dataclass(frozen=True)
class AdapterData:
    """What the loop draws from: N images to train on, and behind them those held out."""

    latents: LatentSource
    conditions: ConditionSource
    prompts: PromptTable
    colours: ColourStatistics  # of every image
    record_ids: Sequence[str]  # N


def draw_losses(
    model: TextToImageModel, data: AdapterData, config: AdapterTrainConfig, turns: Turns, *, seed: int
) -> Tensor:
    """Draw prompts, latents, noise and noise levels of B turns, and return their losses, [B]."""
    draws = draw_turns(model, data.prompts, turns, config, seed=seed)
    latents = data.latents(turns.images, draws.latent_noise)
    conditioning = data.conditions(turns.images, draws.prompt_rows)
    if model.embeds_guidance:
        conditioning = conditioning.with_guidance(config.embedded_guidance)
    noise = to_device(draws.noise, latents.device)
    return adapter_losses(model, latents, noise, draws.timesteps, conditioning, config)


def adapter_losses(
    model: TextToImageModel,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    config: AdapterTrainConfig,
) -> Tensor:
    """Return the loss of each sample, [B].

    Timesteps [B] lie on the CPU, where the noise schedule does: looking them up waits for no device.
    """
    noisy_latents = model.diffusion.add_noise(latents, noise, timesteps)
    model_pred = model.denoise(noisy_latents, to_device(timesteps, latents.device), conditioning)
    losses = prediction_loss(model_pred, model.diffusion.target(latents, noise, timesteps), config.loss)
    if config.snr_gamma is None:
        return losses
    assert isinstance(model.diffusion, Diffusion)
    return losses * min_snr_weights(model.diffusion, timesteps, config.snr_gamma).to(losses)
