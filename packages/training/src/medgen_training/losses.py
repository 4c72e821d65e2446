"""Per-sample training losses.

Shapes: B batch, C channels, H x W size. Every loss returns [B], so that a caller can weigh or log it per noise
level before taking the mean.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from medgen_models import Diffusion, LatentMoments
from torch import Tensor

LossKind = Literal["l1", "l2"]


def prediction_loss(model_pred: Tensor, target: Tensor, kind: LossKind) -> Tensor:
    """Return the mean absolute (`l1`) or squared (`l2`) error of each sample, [B]."""
    difference = model_pred.float() - target.float()
    error = difference.abs() if kind == "l1" else difference.square()
    return error.flatten(1).mean(dim=1)


def min_snr_weights(diffusion: Diffusion, timesteps: Tensor, gamma: float) -> Tensor:
    """Return the weight of each sample, [B] float32: the loss on clean latents, capped at `gamma`.

    min(SNR, gamma) / SNR for noise prediction  (Hang et al. 2023, eq. 8); for v prediction over SNR + 1, and for
    prediction of the sample itself not divided at all.
    """
    snr = diffusion.signal_to_noise(timesteps)
    capped = snr.clamp(max=gamma)
    match diffusion.prediction_type:
        case "epsilon":
            weights = capped / snr
        case "v":
            weights = capped / (snr + 1)
        case "sample":
            weights = capped
    return weights.float()


def kl_divergence(moments: LatentMoments) -> Tensor:
    """Return KL(N(mean, std^2) || N(0, 1)) summed over the latents of each sample, [B]."""
    variance = moments.std.square()
    terms = moments.mean.square() + variance - 1 - variance.clamp_min(1e-30).log()
    return 0.5 * terms.flatten(1).sum(dim=1)


def structural_similarity(images: Tensor, reference: Tensor) -> Tensor:
    """Return the mean SSIM of each image [B, C, H, W] in [0, 1] to its reference, [B]  (Wang et al. 2004, eq. 13).

    Gaussian window of 11 x 11 with standard deviation 1.5, valid positions only.

    Raises:
        ValueError: If a side is shorter than the window.
    """
    window = 11
    if min(images.shape[-2:]) < window:
        raise ValueError(f"images must be at least {window} px on each side, got {tuple(images.shape[-2:])}")
    offsets = torch.arange(window, dtype=images.dtype, device=images.device) - window // 2
    profile = torch.exp(-offsets.square() / (2 * 1.5**2))
    profile = profile / profile.sum()

    def blur(values: Tensor) -> Tensor:
        channels = values.shape[1]
        rows = profile.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        columns = profile.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        return F.conv2d(F.conv2d(values, rows, groups=channels), columns, groups=channels)

    mean_x, mean_y = blur(images), blur(reference)
    var_x = blur(images * images) - mean_x * mean_x
    var_y = blur(reference * reference) - mean_y * mean_y
    covariance = blur(images * reference) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(dim=1)
