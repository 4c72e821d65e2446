import time
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from medgen_metrics.frechet import frechet_distance
from medgen_metrics.prompts import (
    Objective,
    _distance_of_everything,
    consecutive_objectives,
    mean_cosine,
    mean_distance_of_directions,
    prompt_scores,
)
from torch import Tensor

Draw = Callable[..., Tensor]
Challenge = tuple[dict[str, Tensor], dict[str, Tensor]]


def challenge(num_prompts: int, *, dim: int = 24, num_images: int = 10, num_real: int = 30) -> Challenge:
    """Features of numbered prompts, and of real images for every odd prompt."""
    generator = torch.Generator().manual_seed(num_prompts)
    deviations = torch.arange(1, dim + 1) ** -0.5
    centre = 3 * torch.randn(dim, generator=generator)

    def draw(count: int, shift: Tensor) -> Tensor:
        return (torch.randn(count, dim, generator=generator) + shift) * deviations + centre

    shifts = [0.3 * torch.randn(dim, generator=generator) for _ in range(num_prompts)]
    generated = {f"{i + 1:04d}": draw(num_images, shifts[i]) for i in range(num_prompts)}
    real = {f"{i + 1:04d}": draw(num_real, shifts[i] / 2) for i in range(0, num_prompts, 2)}
    return generated, real


def by_covariances(first: np.ndarray, second: np.ndarray) -> float:
    """The distance in the words of its definition, with the eigenvalues of the product."""
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real
    shift = first.mean(axis=0) - second.mean(axis=0)
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots.sum())


def evaluator(
    generated: dict[str, Tensor], real: dict[str, Tensor], distance: Callable[..., float]
) -> dict[str, float]:
    """An independent writing of the rules of the public evaluator."""
    table = {int(name): features.double().numpy() for name, features in generated.items()}
    order = sorted(table)
    distances, cosines, spreads, images, references = [], [], [], [], []
    for place in range(0, len(order) // 2, 2):
        reference = real[f"{order[place]:04d}"].double().numpy()
        pair = [table[order[place]], table[order[place + 1]]]
        distances.append(np.mean([distance(features, reference) for features in pair]))
        unit = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in pair]
        cosines.append((unit[0] @ unit[1].T).mean())
        for directions in unit:
            apart = np.linalg.norm(directions[:, None] - directions[None], axis=-1)
            spreads.append(apart[np.triu_indices(len(directions), 1)].mean())
        images += pair
        references.append(reference)
    return {
        "fidelity": round(float(np.mean(1000 / (1 + np.array(distances)))), 2),
        "agreement": round(float(np.mean(cosines)), 2),
        "diversity": round(float(np.mean(spreads)), 2),
        "FBD": round(distance(np.concatenate(images), np.concatenate(references)), 2),
    }


@pytest.mark.parametrize(("num_prompts", "num_scored"), [(8, 2), (10, 3), (20, 5)])
def test_challenge_protocol_prints_what_the_public_evaluator_prints(
    num_prompts: int, num_scored: int
) -> None:
    generated, real = challenge(num_prompts)
    objectives = consecutive_objectives(sorted(generated))
    scores = prompt_scores(generated, real, objectives, protocol="medvqa2025", seed=0)
    assert len(scores.objectives) == num_scored
    assert scores.rounded() == evaluator(generated, real, by_covariances)


def test_evaluator_with_a_matrix_square_root_agrees_too() -> None:
    linalg = pytest.importorskip("scipy.linalg")

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
        root = linalg.sqrtm(covariances[0] @ covariances[1]).real
        shift = first.mean(axis=0) - second.mean(axis=0)
        return float((shift**2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root))

    generated, real = challenge(8, dim=96)
    objectives = consecutive_objectives(sorted(generated))
    scores = prompt_scores(generated, real, objectives, protocol="medvqa2025", seed=0)
    assert scores.rounded() == evaluator(generated, real, distance)


def exact_distance(real: Tensor, synthetic: Tensor) -> mpmath.mpf:
    """The distance of two small sets in 50 digits, from the 10 x 10 table P P^T."""
    with mpmath.workdps(50):
        tables = [mpmath.matrix(features.tolist()) for features in (synthetic, real)]
        means, centred = [], []
        for table in tables:
            mean = [mpmath.fsum(table[:, column]) / table.rows for column in range(table.cols)]
            means.append(mean)
            scale = mpmath.sqrt(table.rows - 1)
            rows = [[(table[i, j] - mean[j]) / scale for j in range(table.cols)] for i in range(table.rows)]
            centred.append(rows)
        product = mpmath.matrix([[mpmath.fdot(a, b) for b in centred[1]] for a in centred[0]])
        roots = mpmath.fsum(mpmath.sqrt(abs(each)) for each in mpmath.eigsy(product * product.T, True))
        traces = mpmath.fsum(number**2 for rows in centred for row in rows for number in row)
        shift = mpmath.fsum((a - b) ** 2 for a, b in zip(*means, strict=True))
        return shift + traces - 2 * roots


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_distance_of_one_prompt_has_twelve_digits_and_takes_milliseconds(offset: float) -> None:
    generator = torch.Generator().manual_seed(1)
    deviations = 3 * torch.arange(1, 769) ** -0.6
    real = torch.randn(50, 768, generator=generator) * deviations + offset
    synthetic = (torch.randn(10, 768, generator=generator) + 0.1) * deviations + offset
    exact = exact_distance(real, synthetic)
    assert abs(frechet_distance(real, synthetic) / exact - 1) < 1e-12
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        frechet_distance(real, synthetic)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01


def test_all_scores_every_objective_and_agrees_with_single_functions() -> None:
    generated, real = challenge(6)
    scores = prompt_scores(generated, real, consecutive_objectives(sorted(generated)), seed=0)
    assert [row.objective.name for row in scores.objectives] == ["0001", "0003", "0005"]
    second = scores.objectives[1]
    assert second.frechet == (
        frechet_distance(real["0003"], generated["0003"]),
        frechet_distance(real["0003"], generated["0004"]),
    )
    assert second.fidelity == pytest.approx(1000 / (1 + sum(second.frechet) / 2))
    assert second.agreement == mean_cosine(generated["0003"], generated["0004"])
    expected = np.mean([mean_distance_of_directions(features) for features in generated.values()])
    assert scores.diversity.value == pytest.approx(expected)
    assert scores.fidelity.value == pytest.approx(np.mean([row.fidelity for row in scores.objectives]))
    assert scores.fbd.value == pytest.approx(
        frechet_distance(torch.cat(list(real.values())), torch.cat(list(generated.values())))
    )


def test_prompts_without_real_images_are_skipped_by_name() -> None:
    generated, real = challenge(8)
    del real["0003"]
    real["0007"] = real["0007"][:1]
    scores = prompt_scores(generated, real, consecutive_objectives(sorted(generated)), seed=0)
    assert scores.skipped == ("0003: no real images", "0007: one real image, a covariance needs two")
    assert [row.objective.name for row in scores.objectives] == ["0001", "0005"]
    with pytest.raises(ValueError, match=r"none of 4 objectives .*0001: no real images; 0003"):
        prompt_scores(generated, {}, consecutive_objectives(sorted(generated)), seed=0)


def test_objectives_with_one_wording_have_no_agreement() -> None:
    generated, real = challenge(4)
    objectives = (Objective("0001", "0001"), Objective("0003", "0003"))
    scores = prompt_scores(generated, real, objectives, seed=0)
    assert scores.agreement is None
    assert scores.rounded().keys() == {"fidelity", "diversity", "FBD"}
    with pytest.raises(ValueError, match=r"two prompts for each objective; these have one: \['0001'"):
        prompt_scores(generated, real, objectives, protocol="medvqa2025", seed=0)


def test_identical_images_have_full_fidelity_and_agreement() -> None:
    generated, _ = challenge(2)
    same = dict.fromkeys(generated, generated["0001"])
    scores = prompt_scores(
        same, {"0001": generated["0001"]}, consecutive_objectives(["0001", "0002"]), seed=0
    )
    assert scores.fidelity.value == pytest.approx(1000.0, rel=1e-6)
    collapsed = {name: features[:1].repeat(10, 1) for name, features in generated.items()}
    flat = prompt_scores(collapsed, {"0001": generated["0001"]}, (Objective("0001", "0001"),), seed=0)
    assert flat.diversity.value == pytest.approx(0.0, abs=1e-7)
    assert mean_cosine(generated["0001"][:1], 7 * generated["0001"][:1]) == pytest.approx(1.0)


def test_ceiling_is_what_a_perfect_generator_reaches() -> None:
    # Every prompt draws from the distribution of its real images: far below 1000, and at the ceiling.
    generator = torch.Generator().manual_seed(5)

    def draw(count: int) -> Tensor:
        return torch.randn(count, 60, generator=generator)

    names = [f"{i:02d}" for i in range(24)]
    generated, real = {name: draw(10) for name in names}, {name: draw(120) for name in names[::2]}
    scores = prompt_scores(generated, real, consecutive_objectives(names), seed=0)
    assert scores.fidelity_ceiling is not None
    assert scores.fidelity.value < 50
    assert scores.fidelity_ceiling.value == pytest.approx(scores.fidelity.value, rel=0.03)
    few = {name: features[:11] for name, features in real.items()}
    assert prompt_scores(generated, few, consecutive_objectives(names), seed=0).fidelity_ceiling is None


def test_seed_moves_the_intervals_and_never_the_scores() -> None:
    generated, real = challenge(12)
    objectives = consecutive_objectives(sorted(generated))
    first, again, other = (prompt_scores(generated, real, objectives, seed=seed) for seed in (0, 0, 1))
    assert first == again
    for name in ("fidelity", "agreement", "diversity", "fbd"):
        assert getattr(first, name).value == getattr(other, name).value
        low, high = getattr(first, name).interval
        assert low < getattr(first, name).value < high
    assert first.fidelity.interval != other.fidelity.interval


def test_one_objective_claims_nothing_about_others() -> None:
    generated, real = challenge(2)
    scores = prompt_scores(generated, real, consecutive_objectives(sorted(generated)), seed=0)
    assert scores.fidelity.interval == (0.0, 1000.0)
    assert scores.fbd.interval == (0.0, float("inf"))


def test_interval_of_the_joint_distance_covers_its_expectation() -> None:
    # Objectives are drawn with their own centres: the chance is that of objectives, not only of images.
    estimates = []
    for repeat in range(100):
        generator = torch.Generator().manual_seed(repeat)
        names = [f"{i:02d}" for i in range(24)]
        centres = torch.randn(24, 6, generator=generator)
        generated = {
            name: centre + torch.randn(10, 6, generator=generator)
            for name, centre in zip(names, centres, strict=True)
        }
        real = {
            name: centre + 2.0 + torch.randn(20, 6, generator=generator)
            for name, centre in zip(names, centres, strict=True)
        }
        objectives = [Objective(name, name) for name in names]
        estimates.append(_distance_of_everything(generated, real, objectives))
    expected = np.mean([estimate.value for estimate in estimates])
    covered = sum(estimate.interval[0] <= expected <= estimate.interval[1] for estimate in estimates)
    assert 86 <= covered <= 100


def test_inputs_are_left_unchanged(gaussian: Draw) -> None:
    generated = {name: gaussian(6, 8, seed=seed) for seed, name in enumerate(("0001", "0002"))}
    real = {"0001": gaussian(20, 8, seed=3)}
    before = {name: features.clone() for name, features in {**generated, "real": real["0001"]}.items()}
    prompt_scores(generated, real, consecutive_objectives(["0001", "0002"]), seed=0)
    for name, features in {**generated, "real": real["0001"]}.items():
        assert torch.equal(features, before[name])


def test_errors_say_what_was_expected() -> None:
    generated, real = challenge(2)
    objectives = consecutive_objectives(["0001", "0002"])
    with pytest.raises(ValueError, match="two for each objective, got 3"):
        consecutive_objectives(["a", "b", "c"])
    with pytest.raises(KeyError, match="prompt '0002' of objective '0001' has no generated images"):
        prompt_scores({"0001": generated["0001"]}, real, objectives, seed=0)
    with pytest.raises(ValueError, match="0001: one generated image of '0002', a covariance needs two"):
        prompt_scores({**generated, "0002": generated["0002"][:1]}, real, objectives, seed=0)
    with pytest.raises(ValueError, match="real 24, synthetic 8"):
        prompt_scores({**generated, "0002": generated["0002"][:, :8]}, real, objectives, seed=0)
    broken = generated["0002"].clone()
    broken[4, 0] = torch.nan
    with pytest.raises(ValueError, match="prompt '0002' hold NaN or infinity, first in row 4"):
        prompt_scores({**generated, "0002": broken}, real, objectives, seed=0)
    with pytest.raises(ValueError, match="protocol must be"):
        prompt_scores(generated, real, objectives, protocol="first half", seed=0)  # type: ignore[arg-type]
