from collections.abc import Callable

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.statistics.intervals import UndefinedStatisticError
from medgen_review.statistics.repeatability import Repeated, repeatability, repeated_values
from sklearn.metrics import cohen_kappa_score

Rows = Callable[..., list[RatingRow]]


def pairs_of(first: list[int], second: list[int]) -> list[Repeated]:
    return [Repeated("x", "rating", "realism", a, b) for a, b in zip(first, second, strict=True)]


def test_figures_by_hand() -> None:
    first, second = [3, 5, 8, 2, 7], [4, 5, 6, 2, 8]
    found = repeatability(pairs_of(first, second), highest=10)
    assert found.deviation == pytest.approx(np.sqrt((1 + 0 + 4 + 0 + 1) / 10))
    assert found.coefficient == pytest.approx(2.77 * found.deviation, rel=1e-3)
    assert (found.change, found.same, found.num_values) == pytest.approx((0.0, 0.4, 5))
    expected = cohen_kappa_score(first, second, weights="quadratic", labels=range(11))
    assert found.kappa.value == pytest.approx(expected, abs=1e-9)


def test_deviation_finds_the_noise_of_a_rater_who_wavers() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(20, 80, 3000)
    first, second = (np.round(truth + generator.normal(0, 3, 3000)).astype(int).tolist() for _ in range(2))
    assert repeatability(pairs_of(first, second), highest=100).deviation == pytest.approx(3.0, rel=0.05)


def test_second_showings_meet_their_first_one_under_whatever_letter(rating_rows: Rows) -> None:
    rows = rating_rows(num_repeats=2, num_attention=1)
    pairs = repeated_values(rows)
    assert len(pairs) == 3 * 2 * (3 * 2 + 4)  # raters, pages, values of aspects and ranks
    values = {
        (r.rater, r.prompt_id, r.model, r.kind, r.aspect, r.repeat): r.value
        for r in rows
        if r.kind != "attention"
    }
    expected = sorted(
        (first, values[(*key[:5], 1)])
        for key, first in values.items()
        if key[5] == 0 and (*key[:5], 1) in values
    )
    assert sorted((pair.first, pair.second) for pair in pairs) == expected


def test_a_constant_rater_has_a_deviation_of_zero_and_no_correlation() -> None:
    found = repeatability(pairs_of([5, 5, 5], [5, 5, 5]), highest=10)
    assert (found.deviation, found.same, found.icc.value, found.kappa.value) == (0.0, 1.0, None, None)
    assert "all ratings are equal" in found.icc.note


def test_a_study_without_repeats_says_so(rating_rows: Rows) -> None:
    with pytest.raises(UndefinedStatisticError, match="the study has no repeats"):
        repeatability(repeated_values(rating_rows()), highest=10)
