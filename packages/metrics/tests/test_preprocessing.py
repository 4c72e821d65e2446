import numpy as np
import pytest
import torch
from medgen_metrics.preprocessing import Preprocessing, resize_images
from PIL import Image
from torch import Tensor

PILLOW = {"bicubic-antialias": Image.Resampling.BICUBIC, "bilinear-antialias": Image.Resampling.BILINEAR}


def random_images(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )


@pytest.mark.parametrize("resize", list(PILLOW))
@pytest.mark.parametrize("size", [(256, 256), (100, 133), (224, 500), (224, 224)])
def test_equals_the_float_path_of_pillow(resize: str, size: tuple[int, int]) -> None:
    images = random_images(*size)
    resized = resize_images(images, 224, resize)[0]
    for channel, result in zip(images[0], resized, strict=True):
        as_float = Image.fromarray(channel.numpy().astype(np.float32))
        expected = np.asarray(as_float.resize((224, 224), PILLOW[resize])).clip(0, 255)
        np.testing.assert_allclose(result.numpy(), expected, atol=0.01)


def test_same_size_changes_nothing() -> None:
    images = random_images(64, 64)
    assert torch.equal(resize_images(images, 64, "bicubic-antialias"), images.float())


def test_overshoot_is_cut_at_white_and_black() -> None:
    edge = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    edge[..., 4:] = 255
    resized = resize_images(edge, 32, "bicubic-antialias")
    assert resized.min() == 0.0
    assert resized.max() == 255.0


def test_normalisation_is_the_one_in_its_name() -> None:
    preprocessing = Preprocessing(size=32, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    assert preprocessing.name == "bicubic-antialias 32x32, (value - 127) / 128"
    images = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    torch.testing.assert_close(preprocessing(images), torch.ones(1, 3, 32, 32))


def test_unequal_channels_show_in_the_name() -> None:
    preprocessing = Preprocessing(
        size=8, mean=(1.0, 2.0, 3.0), std=(4.0, 4.0, 4.0), resize="bilinear-antialias"
    )
    assert preprocessing.name == "bilinear-antialias 8x8, (value - (1, 2, 3)) / 4"


def test_float_images_are_refused() -> None:
    preprocessing = Preprocessing(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] uint8, got \(1, 3, 4, 4\) torch.float32"):
        preprocessing(torch.rand(1, 3, 4, 4))
