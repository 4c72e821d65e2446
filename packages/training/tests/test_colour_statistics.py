import pytest
import torch
from medgen_training.colour_statistics import (
    ColourStatistics,
    colour_loss,
    colour_statistics,
    colour_table,
)


def some_images(num_images: int = 3, size: int = 6) -> torch.Tensor:
    shape = (num_images, 3, size, size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("unbiased", [True, False])
def test_statistics_follow_their_definition_channel_by_channel(unbiased: bool) -> None:
    images = some_images()
    statistics = colour_statistics(images, unbiased=unbiased)
    for row in range(3):
        for channel in range(3):
            pixels = images[row, channel].flatten().tolist()
            mean = sum(pixels) / len(pixels)
            squares = sum((pixel - mean) ** 2 for pixel in pixels)
            assert float(statistics.mean[row, channel]) == pytest.approx(mean)
            expected = (squares / (len(pixels) - unbiased)) ** 0.5
            assert float(statistics.std[row, channel]) == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equal_colours_cost_nothing(reduction: str) -> None:
    statistics = colour_statistics(some_images())
    shuffled = colour_statistics(some_images().flip(-1).transpose(2, 3))  # the same pixels elsewhere
    loss = colour_loss(shuffled, statistics, reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, torch.zeros(3).double())


def test_a_shift_of_the_mean_costs_its_square_in_every_channel() -> None:
    images = some_images()
    shift = torch.tensor([0.5, -0.25, 1.0]).double().view(1, 3, 1, 1)
    loss = colour_loss(colour_statistics(images + shift), colour_statistics(images), "sum")
    torch.testing.assert_close(loss, torch.full((3,), 0.25 + 0.0625 + 1.0).double())


def test_a_change_of_contrast_costs_its_square_in_deviations() -> None:
    images = some_images()
    centre = images.mean(dim=(2, 3), keepdim=True)
    target = colour_statistics(images)
    loss = colour_loss(colour_statistics(centre + 1.5 * (images - centre)), target, "sum")
    torch.testing.assert_close(loss, (0.5 * target.std).square().sum(dim=1))


def test_the_sum_of_the_paper_is_three_times_the_mean_of_the_code() -> None:
    generated, target = colour_statistics(some_images()), colour_statistics(some_images().flip(0))
    code = torch.nn.functional.mse_loss(generated.mean[0], target.mean[0])
    code = code + torch.nn.functional.mse_loss(generated.std[0], target.std[0])
    torch.testing.assert_close(colour_loss(generated, target, "mean")[0], code)
    torch.testing.assert_close(colour_loss(generated, target, "sum")[0], 3 * code)


def test_half_precision_is_widened_before_pixels_are_summed() -> None:
    images = some_images(size=64).to(torch.bfloat16)
    exact = colour_statistics(images.double())
    statistics = colour_statistics(images)
    assert statistics.mean.dtype == torch.float32
    torch.testing.assert_close(statistics.std.double(), exact.std, atol=1e-6, rtol=0)


def test_the_table_of_bytes_equals_the_statistics_of_their_pixel_values() -> None:
    images = torch.randint(256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    table = colour_table(images, batch_size=2)
    expected = colour_statistics(images.double() / 127.5 - 1)
    assert table.mean.dtype == table.std.dtype == torch.float32
    torch.testing.assert_close(table.mean.double(), expected.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(table.std.double(), expected.std, atol=1e-6, rtol=0)


def test_rows_of_a_table_are_those_of_its_images() -> None:
    table = ColourStatistics(torch.arange(12).view(4, 3), torch.arange(12, 24).view(4, 3))
    assert len(table[[2, 0]]) == 2
    assert table[[2, 0]].mean.tolist() == [[6, 7, 8], [0, 1, 2]]
    assert table[1:].std.tolist() == [[15, 16, 17], [18, 19, 20], [21, 22, 23]]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 3, 1, 1)])
def test_what_is_no_colour_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \[B, 3, H, W\] with H W >= 2"):
        colour_statistics(torch.zeros(shape))


def test_targets_of_another_number_are_refused() -> None:
    statistics = colour_statistics(some_images())
    with pytest.raises(ValueError, match="3 generated images meet a target of 2"):
        colour_loss(statistics, statistics[:2], "sum")


def test_a_table_of_floats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be uint8, got torch\.float64"):
        colour_table(some_images())
