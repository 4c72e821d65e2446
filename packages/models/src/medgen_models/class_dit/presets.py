"""The sizes class-conditional DiT comes in."""

from dataclasses import dataclass, field
from typing import Literal

from medgen_models.class_dit.transformer import ClassDit
from medgen_models.diffusion import Diffusion

DitPresetName = Literal["dit-s-8"]

# Ho et al. 2020, section 4; DiT keeps it.
DDPM = Diffusion(prediction_type="epsilon", beta_schedule="linear", beta_start=1e-4, beta_end=0.02)


@dataclass(frozen=True)
class DitPreset:
    """Everything that fixes the shape of a DiT before its classes and its autoencoder are known."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    downsampling: int = 8
    latent_channels: int = 4
    time_dim: int = 256
    diffusion: Diffusion = field(default=DDPM)

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.image_size // self.downsampling

    def build_transformer(self, num_classes: int) -> ClassDit:
        """Build the denoiser with fresh random weights, for `num_classes` classes and the null class."""
        return ClassDit(
            num_classes=num_classes,
            latent_channels=self.latent_channels,
            sample_size=self.latent_size,
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            time_dim=self.time_dim,
        )


DIT_PRESETS: dict[DitPresetName, DitPreset] = {
    # Peebles & Xie 2023, table 1 and section 3.2, on the latents of the Stable Diffusion autoencoder.
    "dit-s-8": DitPreset(image_size=512, patch_size=8, width=384, depth=12, num_heads=6),
}
