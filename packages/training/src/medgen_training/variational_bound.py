"""The loss of a denoiser that learns its variance (Nichol & Dhariwal 2021, section 3.1).

L_hybrid = L_simple + weight L_vlb, where L_vlb trains the variance alone: the mean is detached in it.

Shapes: B batch, C latent channels, H x W latent size. The bound is in bits per dimension, one value a sample.
"""

import math

import torch
from medgen_models import Diffusion
from torch import Tensor

from medgen_training.losses import LossKind, prediction_loss

NUM_LEVELS = 256  # of the discretised likelihood, over [-1, 1]


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other)) in nats, element by element."""
    log_ratio = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + distance)


def discretised_log_likelihood(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log probability of the level of each value under a Gaussian, in nats.

    The line is cut into 256 bins about the levels -1, -1 + 2/255 ... 1; the outer two reach to infinity
    (Ho et al. 2020, eq. 13). A value beyond [-1, 1] is taken for an outer bin from its own edge on.
    """
    half_bin = 1 / (NUM_LEVELS - 1)
    inverse_std = torch.exp(-0.5 * log_variance)
    lower, upper = (values - half_bin - mean) * inverse_std, (values + half_bin - mean) * inverse_std
    # Both edges on the side where the normal integral is small and its logarithm precise.
    far = values > mean
    low, high = torch.where(far, -upper, lower), torch.where(far, -lower, upper)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    inner = (
        log_high + (-torch.expm1(log_low - log_high)).clamp_min(1e-12).log()
    )  # 0 where rounding ate the bin
    outer_margin = 1 - half_bin
    below = torch.where(values < -outer_margin, torch.special.log_ndtr(upper), inner)
    return torch.where(values > outer_margin, torch.special.log_ndtr(-lower), below)


class Posterior:
    """The Gaussian q(z_{t-1} | z_t, x) of a diffusion process  (Ho et al. 2020, eq. 6 and 7)."""

    def __init__(self, diffusion: Diffusion) -> None:
        alphas = diffusion.alphas_cumprod
        previous = torch.cat([torch.ones(1, dtype=alphas.dtype), alphas[:-1]])
        betas = 1 - alphas / previous
        variance = betas * (1 - previous) / (1 - alphas)
        variance[0] = variance[1]  # it is 0 there, and has no logarithm
        self.log_variance = variance.log()  # [T] float64, like all here
        self.log_beta = betas.log()
        self.clean_weight = previous.sqrt() * betas / (1 - alphas)
        self.noisy_weight = (alphas / previous).sqrt() * (1 - previous) / (1 - alphas)

    def mean(self, latents: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Return the mean of z_{t-1} given clean latents and z_t, [B, C, H, W]."""
        clean_weight = _column(self.clean_weight, timesteps, latents)
        return clean_weight * latents + _column(self.noisy_weight, timesteps, latents) * noisy_latents

    def learned_log_variance(self, variance_pred: Tensor, timesteps: Tensor) -> Tensor:
        """Interpolate between the bounds of the log variance, [B, C, H, W].

        v log beta_t + (1 - v) log beta~_t   (Nichol & Dhariwal 2021, eq. 15), with v = (variance_pred + 1) / 2.
        """
        upper_share = (variance_pred + 1) / 2
        upper = _column(self.log_beta, timesteps, variance_pred)
        return upper_share * upper + (1 - upper_share) * _column(self.log_variance, timesteps, variance_pred)


def variational_bound(
    diffusion: Diffusion,
    latents: Tensor,
    noisy_latents: Tensor,
    timesteps: Tensor,
    model_pred: Tensor,
    variance_pred: Tensor,
) -> Tensor:
    """Return the term of the variational bound at each sample's timestep, [B], in bits per dimension.

    KL(q(z_{t-1} | z_t, x) || p(z_{t-1} | z_t)) for t > 0, and -log p(x | z_0) at t = 0, discretised as if the
    latents were images of 256 levels: the form that the authors of DiT train with.

    Args:
        diffusion: The process, and what `model_pred` is.
        latents: Clean latents x, [B, C, H, W].
        noisy_latents: z_t, [B, C, H, W].
        timesteps: Integer in [0, T), [B].
        model_pred: Prediction of the denoiser, [B, C, H, W].
        variance_pred: -1 for the lower and 1 for the upper bound of the log variance, [B, C, H, W].
    """
    posterior = Posterior(diffusion)
    model_pred, variance_pred = model_pred.to(latents.dtype), variance_pred.to(latents.dtype)
    estimate = diffusion.clean_estimate(model_pred, noisy_latents, timesteps)
    true_mean = posterior.mean(latents, noisy_latents, timesteps)
    mean = posterior.mean(estimate, noisy_latents, timesteps)
    log_variance = posterior.learned_log_variance(variance_pred, timesteps)
    kl = gaussian_kl(true_mean, _column(posterior.log_variance, timesteps, latents), mean, log_variance)
    first = -discretised_log_likelihood(latents, mean, log_variance)
    nats = torch.where(timesteps.view(-1, 1, 1, 1) == 0, first, kl)
    return nats.flatten(1).mean(dim=1) / math.log(2)


def hybrid_loss(
    diffusion: Diffusion,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    model_pred: Tensor,
    variance_pred: Tensor,
    *,
    kind: LossKind = "l2",
    vb_weight: float = 1.0,
) -> Tensor:
    """Return the prediction loss plus `vb_weight` times the bound of the variance, [B].

    L_simple + lambda L_vlb   (Nichol & Dhariwal 2021, eq. 16), where L_vlb is a sum over all T timesteps, of which
    a batch sees one a sample: lambda = 0.001 and T = 1000 make a weight of 1.

    Args:
        diffusion: The process, and what `model_pred` is.
        latents: Clean latents, [B, C, H, W].
        noise: Standard normal noise, [B, C, H, W].
        timesteps: Integer in [0, T), [B].
        model_pred: Prediction of the denoiser, [B, C, H, W].
        variance_pred: -1 for the lower and 1 for the upper bound of the log variance, [B, C, H, W].
        kind: Error of the prediction.
        vb_weight: Weight of the bound.
    """
    noisy_latents = diffusion.add_noise(latents, noise, timesteps)
    simple = prediction_loss(model_pred, diffusion.target(latents, noise, timesteps), kind)
    bound = variational_bound(
        diffusion, latents, noisy_latents, timesteps, model_pred.detach(), variance_pred
    )
    return simple + vb_weight * bound


def _column(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """Return the entries of a table [T] at timesteps, [B, 1, 1, 1], in the dtype and place of `like`."""
    return table[timesteps.cpu()].view(-1, 1, 1, 1).to(like)
