import math

import numpy as np
import pytest
import torch
from medgen_metrics.inception_score import InceptionScore, inception_score, split_estimates
from torch import Tensor


def random_logits(num_images: int, num_classes: int, *, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_images, num_classes, generator=generator)


def reference(logits: Tensor) -> float:
    """Average Kullback-Leibler divergences one image and class at a time."""
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=1, keepdims=True)
    marginal = [math.fsum(column) / len(p) for column in p.T]
    divergences = [math.fsum(q * math.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in p]
    return math.exp(math.fsum(divergences) / len(p))


@pytest.mark.parametrize("num_classes", [2, 7, 1008])
def test_sure_and_evenly_spread_classes_score_their_number(num_classes: int) -> None:
    logits = 1000 * torch.eye(num_classes)
    assert inception_score(logits, num_splits=1, seed=None).mean == pytest.approx(num_classes)


def test_images_that_are_all_alike_score_one() -> None:
    score = inception_score(random_logits(1, 9).expand(40, 9), seed=0)
    assert score.per_split == pytest.approx([1.0] * 10)
    assert score.whole.value == pytest.approx(1.0)
    assert score.whole.standard_error == pytest.approx(0.0, abs=1e-9)


def test_two_kinds_of_image_have_a_closed_form() -> None:
    # A quarter of the images is surely class 0, the others class 1: IS is exp of the entropy of (1/4, 3/4).
    logits = torch.tensor([[500.0, 0.0]] + [[0.0, 500.0]] * 3).repeat(5, 1)
    expected = math.exp(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    assert inception_score(logits, num_splits=5, seed=None).per_split == pytest.approx([expected] * 5)


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_every_split_equals_a_sum_by_hand(scale: float) -> None:
    logits = random_logits(57, 11, scale=scale)
    score = inception_score(logits, num_splits=4, seed=None)
    parts = torch.split(logits, [15, 14, 14, 14])
    assert score.per_split == pytest.approx([reference(part) for part in parts], rel=1e-10)
    assert score.whole.value == pytest.approx(reference(logits), rel=1e-10)
    assert score.mean == pytest.approx(np.mean(score.per_split))
    assert score.median == pytest.approx(np.median(score.per_split))
    assert score.std == pytest.approx(np.std(score.per_split, ddof=1))
    assert score.population_std == pytest.approx(score.std * math.sqrt(3 / 4))


@pytest.mark.parametrize("num_images", [20, 91, 99, 100, 109])
def test_remainder_is_spread_so_that_no_split_is_small(num_images: int) -> None:
    sizes = inception_score(random_logits(num_images, 5), num_splits=10, seed=0).split_sizes
    assert sum(sizes) == num_images
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2


def test_imageclef_variant_drops_the_rest_and_adds_its_epsilon() -> None:
    logits = random_logits(47, 6, scale=40.0)
    score = inception_score(logits, num_splits=5, seed=None, variant="imageclef2024")
    assert score.split_sizes == (9,) * 5
    expected = []
    for part in torch.split(logits[:45], 9):
        p = torch.softmax(part.double(), dim=1).numpy()
        divergence = p * (np.log(p + 1e-16) - np.log(p.mean(axis=0, keepdims=True) + 1e-16))
        expected.append(np.exp(divergence.sum(axis=1).mean()))
    assert score.per_split == pytest.approx(expected, rel=1e-12)


def test_order_of_images_does_not_matter_within_a_split() -> None:
    logits = random_logits(30, 8)
    whole = inception_score(logits, num_splits=1, seed=None).mean
    assert inception_score(logits.flip(0), num_splits=1, seed=3).mean == pytest.approx(whole, rel=1e-12)
    assert inception_score(logits.repeat(2, 1), num_splits=1, seed=None).mean == pytest.approx(whole)


def test_a_constant_added_to_the_scores_of_an_image_changes_nothing() -> None:
    logits = random_logits(30, 8).double()
    shifted = logits + torch.arange(30.0, dtype=torch.float64)[:, None]
    first, second = (inception_score(values, num_splits=3, seed=1) for values in (logits, shifted))
    assert first.per_split == pytest.approx(second.per_split, rel=1e-12)


def test_seed_deals_the_images_and_leaves_global_generators_alone() -> None:
    logits = random_logits(60, 8)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (inception_score(logits, num_splits=5, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.per_split != other.per_split
    assert first.whole == other.whole
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_jackknife_is_the_one_of_leaving_images_out() -> None:
    logits = random_logits(23, 6)
    logs = np.array(
        [math.log(reference(torch.cat([logits[:i], logits[i + 1 :]]))) for i in range(len(logits))]
    )
    error = math.sqrt((len(logs) - 1) / len(logs) * ((logs - logs.mean()) ** 2).sum())
    whole = inception_score(logits, num_splits=2, seed=0).whole
    assert whole.standard_error == pytest.approx(error * whole.value, rel=1e-9)


def test_standard_error_is_the_spread_over_image_sets() -> None:
    scores, errors = [], []
    for seed in range(150):
        whole = inception_score(random_logits(120, 5, seed=seed), num_splits=2, seed=0).whole
        scores.append(whole.value)
        errors.append(whole.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(scores, ddof=1), rel=0.2)


def test_input_is_left_alone() -> None:
    logits = random_logits(20, 4).double()
    before = logits.clone()
    inception_score(logits, num_splits=2, seed=0)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "options", "problem"),
    [
        (torch.zeros(19, 4), {}, "10 splits need at least 20 images, two each, got 19; .* num_splits <= 9"),
        (torch.zeros(1, 4), {"num_splits": 1}, "1 splits need at least 2 images"),
        (torch.zeros(20), {}, r"logits must be \[N, C >= 2\], got \(20,\)"),
        (torch.full((20, 4), torch.nan), {}, "NaN or infinity"),
        (torch.zeros(20, 4), {"variant": "2017"}, "variant must be .* got '2017'"),
        (torch.zeros(20, 4), {"num_splits": 0}, "0 splits"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits: Tensor, options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        inception_score(logits, seed=0, **options)


def test_intervals_of_mean_and_median_cover_the_score_of_a_split() -> None:
    # Many splits of one kind of image give the truth; the spread over repeats is that of fresh images.
    truth = inception_score(random_logits(40_000, 5), num_splits=1000, seed=None)
    hits = {"mean": 0, "median": 0, "std": 0}
    for seed in range(200):
        score = inception_score(random_logits(400, 5, seed=seed + 1), seed=None)
        for name, estimate in split_estimates(score).items():
            hits[name] += estimate.interval[0] <= getattr(truth, name) <= estimate.interval[1]
    assert all(176 <= count <= 198 for count in hits.values()), hits


def test_estimates_are_the_figures_of_the_score() -> None:
    score = inception_score(random_logits(60, 4), num_splits=3, seed=0)
    estimates = split_estimates(score)
    assert {name: each.value for name, each in estimates.items()} == {
        "mean": score.mean,
        "std": score.std,
        "median": score.median,
    }
    whole: InceptionScore = inception_score(random_logits(60, 4), num_splits=1, seed=0)
    with pytest.raises(ValueError, match="expected at least 2 splits, got 1"):
        split_estimates(whole)
