"""The sizes MSDM comes in."""

from dataclasses import dataclass, field
from typing import Literal

from medgen_models.diffusion import Diffusion
from medgen_models.msdm.unet import MsdmUNet
from medgen_models.msdm.vae import MsdmAutoencoder, Upsampling

MsdmPresetName = Literal["msdm-256", "msdm-tiny"]


@dataclass(frozen=True)
class MsdmPreset:
    """Everything that fixes the shape of an MSDM before its text encoder is known."""

    image_size: int
    autoencoder_channels: tuple[int, ...]
    latent_channels: int
    autoencoder_groups: int
    unet_channels: tuple[int, ...]
    blocks_per_level: int
    embed_dim: int
    num_heads: int
    unet_groups: int
    dropout: float
    time_dim: int
    max_tokens: int
    upsampling: Upsampling = "nearest"
    prompt_scale: float = 1.0
    standardise_prompts: bool = False
    self_conditioning: bool = False
    diffusion: Diffusion = field(default_factory=Diffusion)

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return int(self.image_size // 2 ** (len(self.autoencoder_channels) - 1))

    def build_autoencoder(self) -> MsdmAutoencoder:
        """Build the autoencoder with fresh random weights."""
        return MsdmAutoencoder(
            channels=self.autoencoder_channels,
            latent_channels=self.latent_channels,
            num_groups=self.autoencoder_groups,
            upsampling=self.upsampling,
        )

    def build_unet(self, text_dim: int) -> MsdmUNet:
        """Build the denoiser with fresh random weights, for a text encoder of width `text_dim`."""
        return MsdmUNet(
            latent_channels=self.latent_channels,
            sample_size=self.latent_size,
            channels=self.unet_channels,
            blocks_per_level=self.blocks_per_level,
            embed_dim=self.embed_dim,
            text_dim=text_dim,
            num_heads=self.num_heads,
            num_groups=self.unet_groups,
            dropout=self.dropout,
            self_conditioning=self.self_conditioning,
            time_dim=self.time_dim,
            prompt_scale=self.prompt_scale,
        )


PRESETS: dict[MsdmPresetName, MsdmPreset] = {
    # MMCP at MEDVQA-GI 2024, sections 4.2.1 (architecture) and 5.2 (parameter counts).
    "msdm-256": MsdmPreset(
        image_size=256,
        autoencoder_channels=(64, 128, 256, 512),
        latent_channels=8,
        autoencoder_groups=8,
        unet_channels=(256, 512, 1024),
        blocks_per_level=2,
        embed_dim=1024,
        num_heads=8,
        unet_groups=32,
        dropout=0.1,
        time_dim=256,
        max_tokens=64,
    ),
    # The same architecture at a size that a CPU trains in minutes; the v target is kinder to few steps.
    "msdm-tiny": MsdmPreset(
        image_size=64,
        autoencoder_channels=(16, 32, 64, 192),  # 192 = 3 x 8 x 8: room for every pixel of a patch
        latent_channels=16,
        autoencoder_groups=8,
        unet_channels=(96, 192),
        blocks_per_level=1,
        embed_dim=256,
        num_heads=4,
        unet_groups=8,
        dropout=0.0,
        time_dim=64,
        max_tokens=48,
        upsampling="pixel-shuffle",
        prompt_scale=4.0,
        standardise_prompts=True,
        diffusion=Diffusion(prediction_type="v"),
    ),
}
