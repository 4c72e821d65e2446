"""The autoencoder of MSDM: a convolutional KL-VAE without attention.

Shapes: B batch, Z latent channels, H x W image size, f = 2 ** (number of stages) downsampling.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from medgen_models.msdm.blocks import ResidualBlock, zero_init
from medgen_models.protocol import LatentMoments

Upsampling = Literal["nearest", "pixel-shuffle"]


class Reconstruction(NamedTuple):
    """What the decoder gives: the image, and the half-size image of deep supervision."""

    pixel_values: Tensor  # [B, 3, H, W], nominally in [-1, 1], not clamped
    half_size: Tensor  # [B, 3, H / 2, W / 2]


class MsdmAutoencoder(ModelMixin, ConfigMixin):
    """KL autoencoder after MSDM; `msdm-256` has 13,365,094 parameters and maps 256 px to 8 x 32 x 32.

    `latents_mean` and `latents_std` are the channel statistics of the latents of the training images, so that
    the denoiser sees latents of zero mean and unit variance; MSDM as published uses 0 and 1.

    Args:
        channels: Width of the stem and of each stage; every stage halves the size.
        latent_channels: Channels of the latents, Z.
        num_groups: Groups of the group norms; divides every width.
        upsampling: `nearest`, then a convolution, as MSDM has it; `pixel-shuffle` after a convolution of the same
            cost lets every pixel of a patch have weights of its own, which a linear start needs.
        latents_mean: Mean of each latent channel, [Z] (None: zeros).
        latents_std: Standard deviation of each latent channel, [Z] (None: ones).
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        latent_channels: int = 8,
        num_groups: int = 8,
        upsampling: Upsampling = "nearest",
        latents_mean: tuple[float, ...] | None = None,  # noqa: ARG002 - kept in config
        latents_std: tuple[float, ...] | None = None,  # noqa: ARG002 - kept in config
    ) -> None:
        super().__init__()
        self.stem = ResidualBlock(3, channels[0], num_groups=num_groups)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
                ResidualBlock(wide, wide, num_groups=num_groups),
            )
            for narrow, wide in pairwise(channels)
        )
        self.moments = nn.Sequential(
            nn.Conv2d(channels[-1], 2 * latent_channels, 3, padding=1),
            nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1),
        )
        reverse = channels[::-1]
        self.unstem = ResidualBlock(latent_channels, reverse[0], num_groups=num_groups)
        self.up = nn.ModuleList(
            nn.Sequential(
                *_enlarge(wide, narrow, upsampling), ResidualBlock(narrow, narrow, num_groups=num_groups)
            )
            for wide, narrow in pairwise(reverse)
        )
        self.to_pixels = zero_init(nn.Conv2d(channels[0], 3, 1))
        self.to_half_size = zero_init(nn.Conv2d(channels[1], 3, 1))

    @property
    def downsampling(self) -> int:
        """Image size divided by latent size, f."""
        return 2 ** len(self.down)

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        mean = self.config.latents_mean or (0.0,) * self.config.latent_channels
        std = self.config.latents_std or (1.0,) * self.config.latent_channels
        tensors = (torch.tensor(v, device=self.device, dtype=self.dtype)[:, None, None] for v in (mean, std))
        mean_column, std_column = tensors
        return mean_column, std_column

    def encode(self, pixel_values: Tensor) -> LatentMoments:
        """Return the normalised posterior moments of images [B, 3, H, W] in [-1, 1]."""
        if pixel_values.shape[-1] % self.downsampling or pixel_values.shape[-2] % self.downsampling:
            raise ValueError(
                f"image sides must be multiples of {self.downsampling}, got {tuple(pixel_values.shape[-2:])}"
            )
        features = self.stem(pixel_values)
        for stage in self.down:
            features = stage(features)
        mean, log_variance = self.moments(features).chunk(2, dim=1)
        latents_mean, latents_std = self._latent_statistics()
        std = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return LatentMoments((mean - latents_mean) / latents_std, std / latents_std)

    def reconstruct(self, latents: Tensor) -> Reconstruction:
        """Decode normalised latents [B, Z, H / f, W / f] to the image and its half-size companion."""
        latents_mean, latents_std = self._latent_statistics()
        features = self.unstem(latents * latents_std + latents_mean)
        for stage in self.up[:-1]:
            features = stage(features)
        half_size = self.to_half_size(features)
        return Reconstruction(self.to_pixels(self.up[-1](features)), half_size)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents [B, Z, H / f, W / f] to images [B, 3, H, W], not clamped."""
        return self.reconstruct(latents).pixel_values

    def forward(self, pixel_values: Tensor, noise: Tensor) -> tuple[Reconstruction, LatentMoments]:
        """Encode, draw latents with the given standard normal noise, decode."""
        moments = self.encode(pixel_values)
        return self.reconstruct(moments.sample(noise)), moments


def _enlarge(in_channels: int, out_channels: int, upsampling: Upsampling) -> tuple[nn.Module, nn.Module]:
    """Return the two layers that double the size."""
    if upsampling == "pixel-shuffle":
        return nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1), nn.PixelShuffle(2)
    return nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(
        in_channels, out_channels, 3, padding=1
    )


def downsample_half(pixel_values: Tensor) -> Tensor:
    """Return the half-size target of deep supervision, [B, 3, H / 2, W / 2] (nearest-exact)."""
    return F.interpolate(pixel_values, scale_factor=0.5, mode="nearest-exact")
