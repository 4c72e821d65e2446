from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Tiny matrices: more threads only wait for each other.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gaussian() -> Callable[..., Tensor]:
    """Draw features, [N, D] float64, of a Gaussian with falling variances."""

    def draw(num_samples: int, dim: int, *, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        deviations = torch.linspace(1.0, 0.2, dim, dtype=torch.float64)
        noise = torch.randn(num_samples, dim, generator=generator, dtype=torch.float64)
        return shift + scale * noise * deviations

    return draw


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write a folder of small random pictures with soft structure."""

    def write(name: str, num_images: int, *, seed: int, size: int = 40, suffix: str = ".png") -> list[Path]:
        folder = tmp_path / name
        folder.mkdir()
        generator = np.random.default_rng(seed)
        files = []
        for index in range(num_images):
            coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            files.append(folder / f"{index:03d}{suffix}")
            Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(files[-1])
        return files

    return write
