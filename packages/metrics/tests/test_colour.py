import colorsys
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_metrics.colour import (
    CHANNELS,
    ColourStatistics,
    colour_report,
    colour_statistics,
    colour_statistics_of_files,
    compare_colours,
    paired_colour_loss,
    saturation_distance,
)
from medgen_metrics.image_decoding import ImageFileError
from PIL import Image
from torch import Tensor

Write = Callable[..., list[Path]]


def noise_images(num_images: int, *, seed: int, low: int = 0, high: int = 256, size: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (num_images, 3, size, size + 2), generator=generator).to(torch.uint8)


def flat(red: int, green: int, blue: int, num_images: int = 2) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).view(1, 3, 1, 1).repeat(num_images, 1, 4, 4)


def saturation_of_pixels(images: Tensor) -> list[float]:
    # Independent reference: exact fractions, pixel by pixel, rounded half up to the stated grid.
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    exact = [Fraction(max(pixel) - min(pixel), max(*pixel, 1)) for pixel in pixels]
    return [math.floor(255 * saturation + Fraction(1, 2)) / 255 for saturation in exact]


def test_saturation_is_that_of_the_standard_library() -> None:
    for pixel in noise_images(1, seed=4).permute(0, 2, 3, 1).reshape(-1, 3):
        (ours,) = saturation_of_pixels(pixel.view(1, 3, 1, 1))
        assert ours == pytest.approx(colorsys.rgb_to_hsv(*(pixel / 255).tolist())[1], abs=0.51 / 255)


def test_statistics_equal_numpy_per_image() -> None:
    images = noise_images(3, seed=0)
    statistics = colour_statistics(images)
    pixels = images.double().numpy() / 255
    np.testing.assert_allclose(statistics.means, pixels.mean(axis=(2, 3)), rtol=1e-14)
    np.testing.assert_allclose(
        statistics.deviations, pixels.reshape(3, 3, -1).std(axis=2, ddof=1), rtol=1e-13
    )
    np.testing.assert_allclose(statistics.saturations.sum(axis=1), 1.0, rtol=1e-14)


def test_saturation_distance_is_the_mean_gap_of_sorted_pixels() -> None:
    # For samples of one size the 1-Wasserstein distance pairs them in order.
    real, synthetic = noise_images(4, seed=0), noise_images(4, seed=1, low=100)
    ours = saturation_distance(colour_statistics(real), colour_statistics(synthetic))
    pairs = zip(sorted(saturation_of_pixels(real)), sorted(saturation_of_pixels(synthetic)), strict=True)
    expected = np.mean([abs(first - second) for first, second in pairs])
    assert ours == pytest.approx(expected, rel=1e-12)
    assert ours > 0.1


@pytest.mark.parametrize(
    ("colour", "saturation"),
    [((0, 0, 0), 0.0), ((90, 90, 90), 0.0), ((255, 0, 0), 1.0), ((200, 100, 150), 0.5)],
)
def test_saturation_of_flat_colours_is_that_of_hsv(colour: tuple[int, int, int], saturation: float) -> None:
    grey = colour_statistics(flat(128, 128, 128))
    distance = saturation_distance(grey, colour_statistics(flat(*colour)))
    assert distance == pytest.approx(saturation, abs=1 / 255)


def test_a_known_shift_of_one_channel_is_found_in_that_channel_only() -> None:
    real = noise_images(30, seed=0, high=200)
    shifted = real.clone()
    shifted[:, 1] += 51
    comparison = compare_colours(colour_statistics(real), colour_statistics(shifted), seed=0)
    assert [comparison.mean_error[name].value for name in CHANNELS] == pytest.approx([0, 0.2, 0], abs=1e-12)
    assert [comparison.deviation_error[name].value for name in CHANNELS] == pytest.approx(
        [0, 0, 0], abs=1e-12
    )
    assert comparison.mean_error["green"].interval[0] > 0.1


def test_halved_contrast_is_an_error_of_the_deviation() -> None:
    real = noise_images(20, seed=0) // 2 * 2
    dull = real // 2
    real_statistics = colour_statistics(real)
    comparison = compare_colours(real_statistics, colour_statistics(dull), seed=0)
    for channel, name in enumerate(CHANNELS):
        expected = -real_statistics.deviations[:, channel].mean() / 2
        assert comparison.deviation_error[name].value == pytest.approx(expected, rel=1e-12)


def test_a_set_has_no_error_against_itself_nor_against_its_permutation() -> None:
    images = noise_images(12, seed=3)
    turned = images.flip(dims=(0, 3))
    comparison = compare_colours(colour_statistics(images), colour_statistics(turned), seed=0)
    for estimate in (*comparison.mean_error.values(), *comparison.deviation_error.values()):
        assert estimate.value == pytest.approx(0.0, abs=1e-14)
    assert comparison.saturation_distance.value == pytest.approx(0.0, abs=1e-14)
    assert comparison.saturation_distance.interval[0] == 0.0


def test_every_image_weighs_the_same_whatever_its_size() -> None:
    small = [flat(255, 0, 0, 1)[0], flat(90, 90, 90, 1)[0]]
    large = [small[0], small[1].repeat(1, 5, 5)]
    assert saturation_distance(colour_statistics(small), colour_statistics(large)) == 0.0


def test_oversaturation_has_a_positive_shift_and_an_interval_away_from_zero() -> None:
    real = noise_images(40, seed=0, low=120)
    vivid = (real.int() * 2 - 255).clamp(0, 255).to(torch.uint8)
    comparison = compare_colours(colour_statistics(real), colour_statistics(vivid), seed=0)
    assert comparison.saturation_shift.interval[0] > 0.1
    assert comparison.saturation_distance.interval[0] > 0.1
    # All mass moves one way, so the distance is the shift of the mean.
    assert comparison.saturation_distance.value == pytest.approx(comparison.saturation_shift.value, rel=1e-9)


def test_paired_loss_is_the_sum_of_squares_of_equation_4() -> None:
    real, synthetic = noise_images(6, seed=0), noise_images(6, seed=1, high=128)
    ours = paired_colour_loss(colour_statistics(real), colour_statistics(synthetic))
    losses = []
    for x, generated in zip(real.double() / 255, synthetic.double() / 255, strict=True):
        of_means = (generated.mean(dim=(1, 2)) - x.mean(dim=(1, 2))).square().sum()
        of_deviations = (generated.flatten(1).std(dim=1) - x.flatten(1).std(dim=1)).square().sum()
        losses.append(float(of_means + of_deviations))
    assert ours.value == pytest.approx(np.mean(losses), rel=1e-12)
    assert ours.standard_error == pytest.approx(np.std(losses, ddof=1) / math.sqrt(6), rel=1e-12)


def draw_statistics(generator: np.random.Generator, num_images: int, level: float) -> ColourStatistics:
    # Images whose colour varies: a tint and a saturation of their own, and spread around it.
    means = level + 0.1 * generator.standard_normal((num_images, 3))
    deviations = 0.2 + 0.05 * generator.standard_normal((num_images, 3))
    centres = np.clip(level + 0.15 * generator.standard_normal(num_images), 0, 1)
    grid = np.arange(256) / 255
    saturations = np.exp(-0.5 * np.square((grid - centres[:, None]) / 0.08))
    return ColourStatistics(means, deviations, saturations / saturations.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.2])
def test_95_percent_intervals_cover_the_expected_score(shift: float) -> None:
    generator = np.random.default_rng(5)
    num_repeats, comparisons = 120, []
    for repeat in range(num_repeats):
        real, synthetic = (
            draw_statistics(generator, num_images, level)
            for num_images, level in ((40, 0.5), (60, 0.5 + shift))
        )
        comparisons.append(compare_colours(real, synthetic, seed=repeat))
    expected_distance = float(np.mean([one.saturation_distance.value for one in comparisons]))
    cases = {
        "mean": ([one.mean_error["red"] for one in comparisons], shift),
        "deviation": ([one.deviation_error["blue"] for one in comparisons], 0.0),
        "distance": ([one.saturation_distance for one in comparisons], expected_distance),
    }
    for name, (estimates, truth) in cases.items():
        share = np.mean([one.interval[0] <= truth <= one.interval[1] for one in estimates])
        assert share >= 0.88, name
        # Where both distributions are equal a distance cannot be centred, and its interval is conservative.
        assert share <= 0.995 or (name == "distance" and shift == 0), name


def test_classes_are_compared_apart_and_can_be_regrouped() -> None:
    red, blue = flat(220, 30, 30, 6), flat(30, 30, 220, 6)
    real, synthetic = torch.cat([red, blue]), torch.cat([blue, blue])
    right, wrong = ["a"] * 6 + ["b"] * 6, ["b"] * 12
    report = colour_report(
        colour_statistics(real),
        colour_statistics(synthetic),
        real_classes=right,
        synthetic_classes=right,
        seed=0,
    )
    assert report.per_class["a"].mean_error["red"].value == pytest.approx(-190 / 255)
    assert report.per_class["b"].mean_error["red"].value == 0.0
    assert report.overall.mean_error["red"].value == pytest.approx(-95 / 255)
    regrouped = report.regroup(right, wrong)
    assert set(regrouped.per_class) == {"b"}
    assert regrouped.per_class["b"].num_synthetic == 12
    assert regrouped.skipped_classes == {"a": "needs 2 images in each set, got 6 real, 0 synthetic"}
    content = report.to_json()
    assert content["per_class"]["a"]["mean_error"]["red"]["value"] == pytest.approx(-190 / 255)
    assert content["overall"]["num_real"] == 12


def test_files_give_the_statistics_of_their_pixels(image_folder: Write) -> None:
    files = image_folder("real", 4, seed=0)
    seen: list[tuple[int, int]] = []
    ours = colour_statistics_of_files(files, on_progress=lambda done, total: seen.append((done, total)))
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
    np.testing.assert_array_equal(ours.saturations, colour_statistics(images).saturations)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_errors_say_what_was_expected(tmp_path: Path) -> None:
    two = colour_statistics(flat(1, 2, 3))
    with pytest.raises(ValueError, match=r"\[3, H, W\] uint8 .*got \(3, 4, 4\) torch.float32"):
        colour_statistics(flat(1, 2, 3).float())
    with pytest.raises(ValueError, match="at least one image"):
        colour_statistics([])
    with pytest.raises(ValueError, match="at least 2 synthetic images"):
        compare_colours(two, two.select([0]), seed=0)
    with pytest.raises(ValueError, match="one class for each of 2 synthetic images, got 0"):
        colour_report(two, two, real_classes=["a", "a"], seed=0)
    with pytest.raises(ValueError, match="2 real and 1 synthetic"):
        paired_colour_loss(two, two.select([0]))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageFileError, match=r"broken\.png: "):
        colour_statistics_of_files([broken])
