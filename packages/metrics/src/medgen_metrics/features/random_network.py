"""Features of a small random network: for tests and dry runs, never for results."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medgen_metrics.features.weights import weights_sha256
from medgen_metrics.preprocessing import Preprocessing


class RandomExtractor:
    """`FeatureExtractor` with random weights: needs no file, and its scores compare with nothing else."""

    dim = 64
    comparable = False
    revision = None
    cautions: tuple[str, ...] = ()
    preprocessing = Preprocessing(size=64, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))

    def __init__(self, seed: int, *, device: str = "cpu") -> None:
        """Draw the weights.

        Args:
            seed: Seed of the weights.
            device: Where to compute.
        """
        generator = torch.Generator().manual_seed(seed)
        self.id = f"random:{seed}"
        weights = {
            "first": torch.randn(32, 3, 5, 5, generator=generator) / 75**0.5,
            "second": torch.randn(64, 32, 5, 5, generator=generator) / 800**0.5,
        }
        self.sha256 = weights_sha256(weights)
        self._weights = {name: weight.to(device) for name, weight in weights.items()}
        self._device = torch.device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, 64] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images.to(self._device)))

    @torch.inference_mode()
    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, 64] float32 on the CPU, of preprocessed images, [B, 3, 64, 64]."""
        hidden = F.relu(F.conv2d(pixel_values.to(self._device), self._weights["first"], stride=2))
        return F.relu(F.conv2d(hidden, self._weights["second"], stride=2)).mean(dim=(2, 3)).cpu()
