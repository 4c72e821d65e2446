from math import pi, sqrt

import numpy as np
import pytest
from medgen_review.statistics.intervals import UndefinedStatisticError
from medgen_review.statistics.power import (
    Spread,
    detectable_difference,
    pilot_spread,
    power_of,
    simulated_power,
)
from statsmodels.stats.power import TTestPower

SPREAD = Spread(prompt_deviation=1.0, noise_deviation=2.0)


@pytest.mark.parametrize("difference", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("num_raters", [1, 4, 12])
@pytest.mark.parametrize(("efficiency", "num_comparisons"), [(1.0, 1), (3 / pi, 3)])
def test_power_agrees_with_statsmodels(
    difference: float, num_raters: int, efficiency: float, num_comparisons: int
) -> None:
    found = power_of(
        difference,
        SPREAD,
        num_raters=num_raters,
        num_prompts=40,
        num_comparisons=num_comparisons,
        efficiency=efficiency,
    )
    effect = difference / sqrt(1 + 4 / num_raters)
    expected = TTestPower().power(effect, 40 * efficiency, 0.05 / num_comparisons)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("num_raters", "num_prompts", "difference"), [(1, 40, 0.9), (6, 20, 0.9), (12, 40, 0.5)]
)
def test_power_agrees_with_simulated_studies(num_raters: int, num_prompts: int, difference: float) -> None:
    design = {"num_raters": num_raters, "num_prompts": num_prompts}
    simulated = simulated_power(difference, SPREAD, seed=0, num_trials=1500, **design)
    formula = power_of(difference, SPREAD, **design)
    assert 0.5 < formula < 0.97
    assert simulated == pytest.approx(
        formula, abs=0.035
    )  # three standard errors, and the normal approximation


def test_detectable_difference_has_the_power_asked_for_and_shrinks_with_raters() -> None:
    found = [
        detectable_difference(SPREAD, num_raters=raters, num_prompts=40, num_comparisons=3)
        for raters in (1, 3, 12)
    ]
    assert found[0] > found[1] > found[2]
    power = power_of(found[2], SPREAD, num_raters=12, num_prompts=40, num_comparisons=3)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_more_raters_do_not_make_up_for_prompts_that_scatter() -> None:
    limit = detectable_difference(Spread(1.0, 0.0), num_raters=1, num_prompts=10)
    assert detectable_difference(SPREAD, num_raters=10_000, num_prompts=10) == pytest.approx(limit, rel=1e-3)


def test_spread_of_a_pilot_is_found() -> None:
    generator = np.random.default_rng(0)
    prompts, noise = generator.normal(0, 1.0, (2000, 1)), generator.normal(0, 2.0, (2000, 5))
    second = np.zeros((2000, 5))
    spread = pilot_spread(np.stack([1.0 + prompts + noise, second], axis=1))
    assert (spread.prompt_deviation, spread.noise_deviation) == pytest.approx((1.0, 2.0), rel=0.05)


def test_one_rater_is_no_pilot() -> None:
    with pytest.raises(UndefinedStatisticError, match="two models, two prompts and two raters"):
        pilot_spread(np.random.default_rng(0).normal(size=(10, 3, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"difference": 0.0}, "difference must be above 0, got 0.0"),
        ({"spread": Spread(0.0, 0.0)}, "one of them above 0"),
        ({"num_prompts": 2}, "three prompts .* got 1, 2, 1"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 1, got 1.0"),
    ],
)
def test_numbers_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"difference": 1.0, "spread": SPREAD, "num_raters": 1, "num_prompts": 9, **change}
    with pytest.raises(ValueError, match=message):
        power_of(**arguments)  # type: ignore[arg-type]


def test_power_to_detect_must_be_possible() -> None:
    with pytest.raises(ValueError, match=r"power must lie between alpha \(0.05\) and 1, got 1.0"):
        detectable_difference(SPREAD, num_raters=1, num_prompts=9, power=1.0)
