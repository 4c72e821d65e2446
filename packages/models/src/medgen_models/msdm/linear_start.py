"""Start an autoencoder as the best linear one: the principal components of its patches.

Every block of the autoencoder has a path without a nonlinearity from its input to its output. Where a stage has
room for all pixels below it, those paths can carry a patch of f x f pixels unchanged to the latents and back; the
latents are then its first principal components, and the nonlinear branches start at zero and learn the rest. A
training of a minute starts where hundreds of steps from random weights do not arrive.

Shapes: N images, S image size, Z latent channels, f downsampling, P = 3 f f values of a patch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen_models.msdm.blocks import ResidualBlock
from medgen_models.msdm.vae import MsdmAutoencoder

_INITIAL_LOG_VARIANCE = -8.0  # latents start all but noiseless, as a trained autoencoder's are
_SAMPLED_PATCHES = 65_536  # of 192 values: components to a few parts in a thousand


def has_linear_path(vae: MsdmAutoencoder) -> bool:
    """Say whether every stage has room for the pixels below it, and upsampling keeps them apart."""
    config = vae.config
    needed = (3 * 4**stage for stage in range(len(config.channels)))
    wide_enough = all(width >= least for width, least in zip(config.channels, needed, strict=True))
    return (
        wide_enough
        and config.upsampling == "pixel-shuffle"
        and config.latent_channels <= 3 * vae.downsampling**2
    )


@torch.no_grad()
def start_at_principal_components(
    vae: MsdmAutoencoder, pixel_values: Tensor, generator: torch.Generator
) -> None:
    """Set the weights so that decoding an encoded patch projects it on its principal components.

    The latents are divided by the standard deviation of the first component. Afterwards the autoencoder is exactly
    linear; every nonlinear branch is multiplied by a gain that starts at zero.

    Args:
        vae: Fresh autoencoder with `has_linear_path`, changed in place.
        pixel_values: Images to take the components from, [N, 3, S, S] in [-1, 1].
        generator: Source of the weights of the branches that the architecture starts at zero (CPU).

    Raises:
        ValueError: If the autoencoder has no linear path, or there are fewer patches than latent channels.
    """
    if not has_linear_path(vae):
        raise ValueError(
            "the autoencoder has no linear path: it needs pixel-shuffle upsampling, stages at least 3, 12, 48, ... "
            f"wide, and fewer latent channels than that and than values in a patch, got {vae.config.upsampling}, "
            f"{tuple(vae.config.channels)} and {vae.config.latent_channels}"
        )
    mean, components, scale = _principal_components(
        patches(pixel_values, vae.downsampling), vae.config.latent_channels
    )
    mean, components = mean.to(vae.device), components.to(vae.device)
    _open_path(vae, generator)
    num_latents, patch_dim = components.shape
    to_moments, mix = (_convolution(layer) for layer in vae.moments)
    _clear(mix)
    to_moments.weight[:num_latents] = 0
    to_moments.weight[:num_latents, :patch_dim, 1, 1] = components / scale
    _bias(to_moments)[:num_latents] = -(components @ mean) / scale
    mix.weight[range(num_latents), range(num_latents)] = 1
    _bias(mix)[num_latents:] = _INITIAL_LOG_VARIANCE
    back = _convolution(vae.unstem)
    _clear(back)
    back.weight[:patch_dim, :, 0, 0] = components.T * scale
    _bias(back)[:patch_dim] = mean


def patches(pixel_values: Tensor, downsampling: int) -> Tensor:
    """Return the patches of images [N, 3, S, S] in the encoder's own order of pixels, [N (S / f)^2, P]."""
    features = pixel_values
    for _ in range(downsampling.bit_length() - 1):
        features = F.pixel_unshuffle(features, 2)
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _principal_components(values: Tensor, number: int) -> tuple[Tensor, Tensor, float]:
    """Return mean [P], components [number, P] and the standard deviation along the first of rows [M, P]."""
    if len(values) < number:
        raise ValueError(f"{number} components need as many patches, got {len(values)}")
    stride = max(1, len(values) // _SAMPLED_PATCHES)
    sample = values[::stride].double().cpu()
    mean = sample.mean(dim=0)
    centred = sample - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(sample))
    components = directions.flip(1)[:, :number].T
    # The sign of a direction is arbitrary: the largest entry is made positive, so that machines agree.
    largest = components.abs().argmax(dim=1, keepdim=True)
    components = components * components.gather(1, largest).sign()
    scale = float(variances[-1].clamp_min(1e-12).sqrt())
    return mean.float(), components.float(), scale


def _open_path(vae: MsdmAutoencoder, generator: torch.Generator) -> None:
    """Make stem, stages and head pass pixels through unchanged, and silence all nonlinear branches."""
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            for half in (module.first, module.second):
                nn.init.zeros_(half.norm.weight)
            # Behind a gain of zero a convolution of zeros would never get a gradient.
            weights = torch.empty(module.second.conv.weight.shape)
            nn.init.kaiming_uniform_(weights, a=math.sqrt(5), generator=generator)
            module.second.conv.weight.copy_(weights)
    _pass_through(_convolution(vae.stem), 3)
    carried = 3
    for stage in vae.down:
        _gather_four(_convolution(stage), carried)
        carried *= 4
    for stage in vae.up:
        _pass_through(_convolution(stage), carried)
        carried //= 4
    _pass_through(_convolution(vae.to_pixels), 3)


def _convolution(module: nn.Module) -> nn.Conv2d:
    """Return the convolution that carries the linear path: of a block its skip, of a stage its first layer."""
    if isinstance(module, ResidualBlock):
        module = module.first.skip
    elif isinstance(module, nn.Sequential):
        module = module[0]
    assert isinstance(module, nn.Conv2d)
    return module


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _clear(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(_bias(conv))


def _pass_through(conv: nn.Conv2d, channels: int) -> None:
    """Make a convolution copy its first channels, and give zero in all others."""
    _clear(conv)
    middle = conv.kernel_size[0] // 2
    conv.weight[range(channels), range(channels), middle, middle] = 1


def _gather_four(conv: nn.Conv2d, channels: int) -> None:
    """Make a 3 x 3 convolution of stride 2 and padding 1 stack the four pixels of each 2 x 2 block."""
    _clear(conv)
    for channel in range(channels):
        for row in range(2):
            for column in range(2):
                conv.weight[4 * channel + 2 * row + column, channel, 1 + row, 1 + column] = 1
