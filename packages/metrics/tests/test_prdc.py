from collections.abc import Callable

import numpy as np
import pytest
import torch
from medgen_metrics.prdc import _ball_hits, _balls, prdc
from torch import Tensor

Draw = Callable[..., Tensor]
NAMES = ("precision", "recall", "f1", "density", "coverage")


def reference(real: Tensor, synthetic: Tensor, k: int, rim: str = "<=") -> dict[str, float]:
    """The definitions on full float64 tables of direct differences."""

    def table(a: Tensor, b: Tensor) -> np.ndarray:
        difference = a.double().numpy()[:, None] - b.double().numpy()[None]
        return np.sqrt(np.square(difference).sum(axis=-1))

    def radii(features: Tensor) -> np.ndarray:
        distances = table(features, features)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, k - 1]

    compare = np.less_equal if rim == "<=" else np.less
    cross = table(real, synthetic)
    in_real_ball = compare(cross, radii(real)[:, None])
    in_synthetic_ball = compare(cross, radii(synthetic)[None])
    precision, recall = in_real_ball.any(axis=0).mean(), in_synthetic_ball.any(axis=1).mean()
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "density": in_real_ball.sum() / (k * len(synthetic)),
        "coverage": in_real_ball.any(axis=1).mean(),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "rim"), [(3, "<="), (5, "<"), (1, "<=")])
def test_counts_equal_the_definitions(gaussian: Draw, k: int, rim: str, dtype: torch.dtype) -> None:
    real, synthetic = gaussian(150, 12, seed=0).to(dtype), gaussian(130, 12, seed=1, shift=0.15).to(dtype)
    values = prdc(real, synthetic, k=k, rim=rim, seed=0)
    expected = reference(real, synthetic, k, rim)
    assert 0.05 < expected["precision"] < 1
    for name in NAMES:
        assert getattr(values, name).value == pytest.approx(expected[name], rel=1e-14)


def test_blocks_do_not_show(gaussian: Draw) -> None:
    real, synthetic = gaussian(1100, 6, seed=0).float(), gaussian(1050, 6, seed=1, shift=0.2).float()
    values, expected = prdc(real, synthetic, seed=0), reference(real, synthetic, 3)
    assert [getattr(values, name).value for name in NAMES] == pytest.approx(
        list(expected.values()), rel=1e-14
    )


def test_counts_stay_exact_where_float32_products_cannot_tell(gaussian: Draw) -> None:
    # Grid points far from the origin: hundreds of distances tie with a radius exactly.
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 4, (120, 5), generator=generator).float() + 500
    synthetic = torch.randint(0, 4, (120, 5), generator=generator).float() + 500
    for rim in ("<=", "<"):
        values, expected = prdc(real, synthetic, rim=rim, seed=0), reference(real, synthetic, 3, rim)
        assert [getattr(values, name).value for name in NAMES] == pytest.approx(
            list(expected.values()), rel=1e-14
        )


def test_half_sets_equal_a_count_on_the_half_alone(gaussian: Draw) -> None:
    real, synthetic = gaussian(120, 8, seed=0), gaussian(100, 8, seed=1, shift=0.2)
    generator = np.random.default_rng(0)
    in_real, in_synthetic = generator.random((3, 120)) < 0.5, generator.random((3, 100)) < 0.5
    in_real[0], in_synthetic[0] = True, True
    hits, back = _ball_hits(
        real, synthetic, _balls(real, in_real, 3), _balls(synthetic, in_synthetic, 3), "<="
    )
    for run in range(3):
        half_real, half_synthetic = (
            real[torch.from_numpy(in_real[run])],
            synthetic[torch.from_numpy(in_synthetic[run])],
        )
        expected = reference(half_real, half_synthetic, 3)
        assert hits.queries_inside[run] / len(half_synthetic) == pytest.approx(expected["precision"])
        assert back.queries_inside[run] / len(half_real) == pytest.approx(expected["recall"])
        assert hits.balls_filled[run] / len(half_real) == pytest.approx(expected["coverage"])
        assert hits.num_hits[run] / (3 * len(half_synthetic)) == pytest.approx(expected["density"])


def test_identical_sets_are_precise_and_complete(gaussian: Draw) -> None:
    features = gaussian(50, 8, seed=0)
    values = prdc(features, features, seed=0)
    assert values.precision.value == values.recall.value == values.coverage.value == values.f1.value == 1.0


def test_far_sets_share_nothing_and_still_have_an_interval(gaussian: Draw) -> None:
    values = prdc(gaussian(40, 8, seed=0), gaussian(40, 8, seed=1, shift=100.0), seed=0)
    assert values.precision.value == values.recall.value == values.f1.value == values.density.value == 0.0
    assert 0.0 < values.precision.interval[1] < 0.1
    assert 0.0 < values.f1.interval[1] < 0.1
    assert 0.0 < values.density.interval[1] < 0.1


def test_copies_lie_on_their_own_rim() -> None:
    real = torch.cat([torch.zeros(10, 4), 50 + torch.rand(10, 4, generator=torch.Generator().manual_seed(0))])
    synthetic = torch.zeros(8, 4)
    assert prdc(real, synthetic, rim="<=", seed=0).precision.value == 1.0
    assert prdc(real, synthetic, rim="<", seed=0).precision.value == 0.0


def test_swapping_the_sets_swaps_precision_and_recall(gaussian: Draw) -> None:
    real, synthetic = gaussian(70, 8, seed=0), gaussian(60, 8, seed=1, scale=0.6)
    there, back = prdc(real, synthetic, seed=0), prdc(synthetic, real, seed=0)
    assert there.precision.value == back.recall.value > back.precision.value == there.recall.value


def test_seed_moves_the_interval_and_never_the_value(gaussian: Draw) -> None:
    real, synthetic = gaussian(70, 8, seed=0), gaussian(60, 8, seed=1, shift=0.2)
    first, again, other = (prdc(real, synthetic, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.precision.value == other.precision.value
    assert first.precision.standard_error != other.precision.standard_error


def test_intervals_cover_the_expected_values(gaussian: Draw) -> None:
    estimates = [
        prdc(
            gaussian(100, 16, seed=2 * repeat),
            gaussian(100, 16, seed=2 * repeat + 1, shift=0.15),
            seed=repeat,
        )
        for repeat in range(100)
    ]
    for name in NAMES:
        own = [getattr(estimate, name) for estimate in estimates]
        expected = np.mean([estimate.value for estimate in own])
        covered = sum(estimate.interval[0] <= expected <= estimate.interval[1] for estimate in own)
        assert 86 <= covered <= 100, name


def test_inputs_are_left_unchanged(gaussian: Draw) -> None:
    real, synthetic = gaussian(30, 8, seed=0), gaussian(30, 8, seed=1)
    before = real.clone(), synthetic.clone()
    prdc(real, synthetic, seed=0)
    assert torch.equal(real, before[0])
    assert torch.equal(synthetic, before[1])


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="k=3 needs more than k images in each set, got 3 real, 9 synthetic"):
        prdc(torch.rand(3, 2), torch.rand(9, 2), seed=0)
    with pytest.raises(ValueError, match="rim must be"):
        prdc(torch.rand(5, 2), torch.rand(9, 2), rim="<<", seed=0)
