"""Colour of synthetic against real images: channel means, channel deviations, saturation.

A denoiser trained in latent space drifts to oversaturated colours; a colour loss on pixels is meant to mend that
(Med-Art, Guo et al. 2025, eq. 4-5) by matching, per image and channel, the mean mu_c and the deviation sigma_c.
These are the same quantities, so that the effect of such a loss can be read off:

mean error of channel c:       E[mu_c(synthetic)] - E[mu_c(real)]          signed, as a share of full scale
deviation error of channel c:  E[sigma_c(synthetic)] - E[sigma_c(real)]
saturation distance:           integral |F_real(s) - F_synthetic(s)| ds    (1-Wasserstein on [0, 1])

F is the distribution of HSV saturation s = (max - min) / max over the pixels of a set, every image weighing the
same whatever its size. Saturations are rounded to 1/255; on that grid the distance is exact. Like any distance
between samples it is above zero for two sets of one distribution, so compare only scores with equal set sizes.

Shapes: N images, 3 channels red, green, blue, B = 256 saturation bins.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.image_decoding import FULL_16_BIT, decode_image, read_image_bytes
from medgen_metrics.intervals import Estimate, normal_estimate, random_halves

Floats = NDArray[np.float64]
CHANNELS = ("red", "green", "blue")
NUM_BINS = 256
_NUM_HALVES = 200


@dataclass(frozen=True)
class ColourStatistics:
    """Colour of every image of a set; small enough to keep, so that sets can be regrouped without their images."""

    means: Floats  # [N, 3] in 0..1
    deviations: Floats  # [N, 3] in 0..1, unbiased over pixels
    saturations: Floats  # [N, 256], share of pixels at saturation b / 255

    def __len__(self) -> int:
        return len(self.means)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "ColourStatistics":
        """Return the statistics of some images."""
        picked = np.asarray(rows, dtype=np.int64)
        return ColourStatistics(self.means[picked], self.deviations[picked], self.saturations[picked])


@dataclass(frozen=True)
class ColourComparison:
    """How far the colour of one set is from that of another; synthetic minus real where signed."""

    mean_error: Mapping[str, Estimate]  # by channel
    deviation_error: Mapping[str, Estimate]  # by channel
    saturation_shift: Estimate  # mean saturation; positive: the synthetic set is more saturated
    saturation_distance: Estimate
    num_real: int
    num_synthetic: int

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        return {
            "mean_error": {name: _estimate_json(value) for name, value in self.mean_error.items()},
            "deviation_error": {name: _estimate_json(value) for name, value in self.deviation_error.items()},
            "saturation_shift": _estimate_json(self.saturation_shift),
            "saturation_distance": _estimate_json(self.saturation_distance),
            "num_real": self.num_real,
            "num_synthetic": self.num_synthetic,
        }


@dataclass(frozen=True)
class ColourReport:
    """Two sets compared as wholes and class by class; holds what is needed to group them anew."""

    overall: ColourComparison
    per_class: Mapping[str, ColourComparison]
    skipped_classes: Mapping[str, str]  # class -> why it has no comparison
    real: ColourStatistics
    synthetic: ColourStatistics
    seed: int

    def regroup(self, real_classes: Sequence[str], synthetic_classes: Sequence[str]) -> "ColourReport":
        """Compare the same images under other classes; no image is read again."""
        return colour_report(
            self.real,
            self.synthetic,
            real_classes=real_classes,
            synthetic_classes=synthetic_classes,
            seed=self.seed,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the statistics of single images, as a JSON object."""
        return {
            "overall": self.overall.to_json(),
            "per_class": {name: comparison.to_json() for name, comparison in self.per_class.items()},
            "skipped_classes": dict(self.skipped_classes),
            "estimator": "two-sample normal intervals over images; saturation distance by random halves",
            "seed": self.seed,
        }


def colour_statistics(images: Tensor | Iterable[Tensor]) -> ColourStatistics:
    """Measure the colour of images in memory.

    Args:
        images: [N, 3, H, W] uint8, or any iterable of [3, H, W] uint8 of differing sizes; read once, one by one.

    Raises:
        ValueError: If there is no image, or one is not [3, H, W] uint8 with at least two pixels.
    """
    rows = [_one_image(image) for image in images]
    if not rows:
        raise ValueError("expected at least one image, got none")
    means, deviations, saturations = (np.stack(parts) for parts in zip(*rows, strict=True))
    return ColourStatistics(means, deviations, saturations)


def colour_statistics_of_files(
    image_files: Sequence[Path],
    *,
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT,
    on_progress: Callable[[int, int], None] | None = None,
) -> ColourStatistics:
    """Measure the colour of image files; one decoded image is in memory at a time.

    Args:
        image_files: The set.
        sixteen_bit_range: Grey values of 16-bit images that become 0 and 255.
        on_progress: Called with (images done, images in all).

    Raises:
        ImageFileError: If a file cannot be decoded.
        ValueError: If the list is empty.
    """

    def decoded() -> Iterable[Tensor]:
        for done, image_file in enumerate(image_files):
            yield decode_image(read_image_bytes(image_file), image_file, sixteen_bit_range=sixteen_bit_range)
            if on_progress is not None:
                on_progress(done + 1, len(image_files))

    return colour_statistics(decoded())


def compare_colours(real: ColourStatistics, synthetic: ColourStatistics, *, seed: int) -> ColourComparison:
    """Compare the colour of two sets, each number with standard error and 95% interval.

    Means over images take the two-sample normal interval. The saturation distance takes its spread over random
    halves of both sets without replacement: it is not linear where the two distributions cross. Its interval is
    conservative (it held the expected score in all simulated repeats) where the distributions are equal.

    Args:
        real: Colour of the real images, N1 >= 2.
        synthetic: Colour of the synthetic images, N2 >= 2.
        seed: Seed of the random halves; the values do not depend on it.

    Raises:
        ValueError: If a set has fewer than two images.
    """
    for name, statistics in (("real", real), ("synthetic", synthetic)):
        if len(statistics) < 2:
            raise ValueError(f"expected at least 2 {name} images for an interval, got {len(statistics)}")
    levels = np.arange(NUM_BINS) / (NUM_BINS - 1)
    return ColourComparison(
        mean_error=_by_channel(real.means, synthetic.means),
        deviation_error=_by_channel(real.deviations, synthetic.deviations),
        saturation_shift=_difference_of_means(real.saturations @ levels, synthetic.saturations @ levels),
        saturation_distance=_saturation_distance(real, synthetic, seed),
        num_real=len(real),
        num_synthetic=len(synthetic),
    )


def colour_report(
    real: ColourStatistics,
    synthetic: ColourStatistics,
    *,
    real_classes: Sequence[str] = (),
    synthetic_classes: Sequence[str] = (),
    seed: int,
) -> ColourReport:
    """Compare two sets as wholes, and class by class where classes are given.

    Args:
        real: Colour of the real images.
        synthetic: Colour of the synthetic images.
        real_classes: Class of each real image, or empty.
        synthetic_classes: Class of each synthetic image, or empty.
        seed: Seed of the random halves.

    Raises:
        ValueError: If a set has fewer than two images, or classes do not match images one to one.
    """
    for name, statistics, classes in (
        ("real", real, real_classes),
        ("synthetic", synthetic, synthetic_classes),
    ):
        if (real_classes or synthetic_classes) and len(classes) != len(statistics):
            raise ValueError(
                f"expected one class for each of {len(statistics)} {name} images, got {len(classes)}"
            )
    per_class, skipped = {}, {}
    for label in sorted({*real_classes, *synthetic_classes}):
        real_rows = [row for row, name in enumerate(real_classes) if name == label]
        synthetic_rows = [row for row, name in enumerate(synthetic_classes) if name == label]
        if min(len(real_rows), len(synthetic_rows)) < 2:
            skipped[label] = (
                f"needs 2 images in each set, got {len(real_rows)} real, {len(synthetic_rows)} synthetic"
            )
            continue
        per_class[label] = compare_colours(
            real.select(real_rows), synthetic.select(synthetic_rows), seed=seed
        )
    return ColourReport(
        compare_colours(real, synthetic, seed=seed), per_class, skipped, real, synthetic, seed
    )


def paired_colour_loss(real: ColourStatistics, synthetic: ColourStatistics) -> Estimate:
    """Return the colour loss over pairs of a real image and the image generated from its caption.

    L = E_x[sum_c (mu_c(x~) - mu_c(x))^2 + (sigma_c(x~) - sigma_c(x))^2]      (Med-Art, eq. 4)

    Args:
        real: Colour of the real images x, N >= 2.
        synthetic: Colour of the generated images x~; row i belongs to row i of `real`.

    Raises:
        ValueError: If the numbers of images differ or are below two.
    """
    if len(real) != len(synthetic) or len(real) < 2:
        raise ValueError(f"expected N >= 2 pairs, got {len(real)} real and {len(synthetic)} synthetic images")
    of_means = np.square(synthetic.means - real.means).sum(axis=1)
    losses = of_means + np.square(synthetic.deviations - real.deviations).sum(axis=1)
    return normal_estimate(float(losses.mean()), float(losses.std(ddof=1)) / len(losses) ** 0.5, lowest=0.0)


def saturation_distance(real: ColourStatistics, synthetic: ColourStatistics) -> float:
    """Return the 1-Wasserstein distance between the saturation distributions, 0 (equal) to 1."""
    return float(
        _wasserstein(real.saturations.mean(axis=0)[None], synthetic.saturations.mean(axis=0)[None])[0]
    )


def _one_image(image: Tensor) -> tuple[Floats, Floats, Floats]:
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image[0].numel() < 2:
        raise ValueError(
            f"each image must be [3, H, W] uint8 with at least 2 pixels, got {tuple(image.shape)} {image.dtype}"
        )
    pixels = image.detach().cpu().reshape(3, -1)
    deviation, mean = torch.std_mean(pixels.double() / 255, dim=1)
    brightest = pixels.amax(dim=0).long()
    spread = brightest - pixels.amin(dim=0).long()
    # Integer rounding of 255 (max - min) / max, half up; black has no hue and counts as unsaturated.
    bins = (2 * 255 * spread + brightest) // (2 * brightest).clamp(min=1)
    histogram = torch.bincount(bins, minlength=NUM_BINS).double() / pixels.shape[1]
    return mean.numpy(), deviation.numpy(), histogram.numpy()


def _by_channel(real: Floats, synthetic: Floats) -> dict[str, Estimate]:
    columns = zip(CHANNELS, real.T, synthetic.T, strict=True)
    return {name: _difference_of_means(ours, theirs) for name, ours, theirs in columns}


def _difference_of_means(real: Floats, synthetic: Floats) -> Estimate:
    variance = real.var(ddof=1) / len(real) + synthetic.var(ddof=1) / len(synthetic)
    return normal_estimate(float(synthetic.mean() - real.mean()), float(variance**0.5))


def _saturation_distance(real: ColourStatistics, synthetic: ColourStatistics, seed: int) -> Estimate:
    generator = np.random.default_rng(seed)
    halves = [
        random_halves(len(statistics), _NUM_HALVES, generator) @ statistics.saturations
        for statistics in (real, synthetic)
    ]  # [R, 256] each, up to a factor
    half_distances = _wasserstein(*(half / half.sum(axis=1, keepdims=True) for half in halves))
    return normal_estimate(
        saturation_distance(real, synthetic), float(half_distances.std(ddof=1)), lowest=0.0, highest=1.0
    )


def _wasserstein(first: Floats, second: Floats) -> Floats:
    """Return the distances of histograms on the grid 0, 1/255, ..., 1, [R, 256] twice, as [R]."""
    gaps = np.abs(np.cumsum(first - second, axis=1))[:, :-1]
    return np.asarray(gaps.sum(axis=1) / (NUM_BINS - 1))


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "standard_error": estimate.standard_error,
        "interval": list(estimate.interval),
    }
