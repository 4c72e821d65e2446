import numpy as np
import pytest
import torch
from medgen_metrics.preprocessing import RESIZES, Preprocessing, Resize, resize_images
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


def tensorflow_1_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate pixel by pixel as the TensorFlow 1 kernel did, [H, W] to [height, width], in float32."""
    one = np.float32(1)
    step_y = one * np.float32(image.shape[0]) / np.float32(height)
    step_x = one * np.float32(image.shape[1]) / np.float32(width)
    result = np.empty((height, width), dtype=np.float32)
    for i in range(height):
        y = np.float32(i) * step_y
        top = int(y)
        bottom = min(top + 1, image.shape[0] - 1)
        for j in range(width):
            x = np.float32(j) * step_x
            left = int(x)
            right = min(left + 1, image.shape[1] - 1)
            corners = image[np.ix_([top, bottom], [left, right])].astype(np.float32)
            above, below = corners[:, 0] + (corners[:, 1] - corners[:, 0]) * (x - np.float32(left))
            result[i, j] = above + (below - above) * (y - np.float32(top))
    return result


@pytest.mark.parametrize("size", [(40, 56), (61, 97), (83, 29), (400, 3), (1, 1)])
def test_tf1_bilinear_equals_a_pixel_loop_exactly(size: tuple[int, int]) -> None:
    images = random_images(*size)
    resized = resize_images(images, 61, "bilinear-tf1")[0]
    for channel, result in zip(images[0], resized, strict=True):
        np.testing.assert_array_equal(result.numpy(), tensorflow_1_bilinear(channel.numpy(), 61, 61))


def test_tf1_bilinear_starts_at_the_first_pixel_and_repeats_the_last() -> None:
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).expand(1, 3, 3, 3)
    # Places 0, 1/2, 1, 3/2, 2, 5/2 of the source; there is nothing beyond 2.
    assert resize_images(row, 6, "bilinear-tf1")[0, 0, 0].tolist() == [0, 50, 100, 150, 200, 200]


def test_bilinear_without_antialias_has_half_pixel_centres() -> None:
    row = torch.tensor([0, 100], dtype=torch.uint8).expand(1, 3, 2, 2)
    # Places -1/4, 1/4, 3/4, 5/4 of the source, held at its ends.
    assert resize_images(row, 4, "bilinear")[0, 0, 0].tolist() == [0, 25, 75, 100]
    # Shrinking by four, it looks at the two pixels in the middle only; with antialias at all of them.
    row = torch.tensor([255, 0, 0, 255], dtype=torch.uint8).expand(1, 3, 4, 4)
    assert resize_images(row, 1, "bilinear").unique().tolist() == [0.0]
    assert float(resize_images(row, 1, "bilinear-antialias").max()) > 50


@pytest.mark.parametrize("resize", [name for name in RESIZES if name.endswith("-pillow")])
def test_pillow_forms_are_those_of_pillow_byte_for_byte(resize: Resize) -> None:
    images = random_images(50, 70)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    kernel = Image.Resampling[resize.removesuffix("-pillow").upper()]
    expected = np.asarray(picture.resize((32, 32), kernel))
    np.testing.assert_array_equal(resize_images(images, 32, resize)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("resize", RESIZES)
def test_every_form_keeps_a_flat_picture_and_leaves_its_input_alone(resize: Resize) -> None:
    images = torch.full((2, 3, 37, 53), 201, dtype=torch.uint8)
    before = images.clone()
    torch.testing.assert_close(
        resize_images(images, 24, resize), torch.full((2, 3, 24, 24), 201.0), atol=1e-4, rtol=0
    )
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (33, 33)])
def test_crop_takes_the_centre_after_the_shorter_side_is_resized(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(16, (0.0,) * 3, (1.0,) * 3, "bicubic-pillow", shortest_edge=20)
    assert preprocessing.name == "bicubic-pillow shortest edge 20, centre 16x16, (value - 0) / 1"
    images = random_images(*size)
    height, width = size
    scaled = (20, 20 * width // height) if height <= width else (20 * height // width, 20)
    top, left = (scaled[0] - 16) // 2, (scaled[1] - 16) // 2
    whole = resize_images(images, scaled, "bicubic-pillow")
    assert torch.equal(preprocessing(images), whole[:, :, top : top + 16, left : left + 16])


def test_impossible_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="no resize 'sharp'; expected one of bicubic-antialias"):
        Preprocessing(8, (0.0,) * 3, (1.0,) * 3, "sharp")
    with pytest.raises(ValueError, match="no resize 'sharp'"):
        resize_images(random_images(4, 4), 8, "sharp")
    with pytest.raises(ValueError, match="at least the crop of 8 pixels, got 4"):
        Preprocessing(8, (0.0,) * 3, (1.0,) * 3, shortest_edge=4)
