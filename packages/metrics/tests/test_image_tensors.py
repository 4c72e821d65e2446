import numpy as np
import pytest
import torch
from medgen_metrics.image_tensors import as_uint8_images
from torch import Tensor


def random_rgb(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_arrays_and_tensors_take_one_shape() -> None:
    pixels = np.stack([random_rgb(), random_rgb() // 2])
    from_array, from_list = as_uint8_images(pixels), as_uint8_images(list(pixels))
    assert from_array.shape == (2, 3, 5, 7)
    assert torch.equal(from_array, from_list)
    assert torch.equal(as_uint8_images(from_array), from_array)


def test_float_images_are_refused_rather_than_wrapped() -> None:
    with pytest.raises(ValueError, match=r"must be uint8 in 0\.\.255, got torch\.float32"):
        as_uint8_images(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"must be \[B, H, W, 3\] or \[B, H, W, 1\], got \(4, 4\)"):
        as_uint8_images(np.zeros((4, 4), dtype=np.uint8))


def test_floats_of_a_stated_range_are_rounded() -> None:
    values = torch.tensor([0.0, 0.25, 0.5, 0.999, 1.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert as_uint8_images(values, value_range=(0, 1))[0, 0, 0].tolist() == [0, 64, 128, 255, 255]
    assert torch.equal(
        as_uint8_images(2 * values - 1, value_range=(-1, 1)), as_uint8_images(values, value_range=(0, 1))
    )


def test_every_byte_survives_the_way_through_floats() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for dtype in (torch.float32, torch.float64):
        unit = images.to(dtype) / 255
        assert torch.equal(as_uint8_images(unit, value_range=(0, 1)), images)
        assert torch.equal(as_uint8_images(unit * 2 - 1, value_range=(-1, 1)), images)


@pytest.mark.parametrize(
    ("value", "expected"), [(1.004, 255), (1.01, 255), (-0.01, 0), (-0.2, 0), (1.3, 255)]
)
def test_floats_a_little_outside_are_clamped_and_never_wrap(value: float, expected: int) -> None:
    images = torch.full((1, 3, 2, 2), value)
    assert as_uint8_images(images, value_range=(0, 1)).unique().tolist() == [expected]


@pytest.mark.parametrize(
    ("images", "value_range"),
    [
        (torch.linspace(-1, 1, 12).view(1, 3, 2, 2), (0, 1)),
        (torch.linspace(0, 255, 12).view(1, 3, 2, 2), (0, 1)),
        (torch.linspace(0, 255, 12).view(1, 3, 2, 2), (-1, 1)),
    ],
)
def test_floats_of_another_range_than_stated_are_refused(
    images: Tensor, value_range: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match=r"image values reach from .* far outside value_range"):
        as_uint8_images(images, value_range=value_range)


def test_floats_that_are_no_numbers_are_refused() -> None:
    images = torch.rand(1, 3, 2, 2)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        as_uint8_images(images, value_range=(0, 1))


def test_uint16_arrays_are_scaled_over_their_stated_range() -> None:
    scan = np.array([[0, 2048, 4095]], dtype=np.uint16)[None, :, :, None]
    assert as_uint8_images(scan, sixteen_bit_range=(0, 4095))[0, :, 0].tolist() == [[0, 128, 255]] * 3
    with pytest.raises(ValueError, match="uint16 images need sixteen_bit_range"):
        as_uint8_images(scan)
    with pytest.raises(ValueError, match=r"0\.\.4095 lie outside sixteen_bit_range 0\.\.1000"):
        as_uint8_images(scan, sixteen_bit_range=(0, 1000))


def test_a_range_for_bytes_and_other_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="value_range is for float images"):
        as_uint8_images(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), value_range=(0, 1))
    with pytest.raises(ValueError, match=r"uint8, float or uint16, got torch\.int64"):
        as_uint8_images(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


def test_memory_of_the_caller_is_left_alone() -> None:
    floats = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = floats.clone()
    as_uint8_images(floats, value_range=(0, 1))
    assert torch.equal(floats, before)
