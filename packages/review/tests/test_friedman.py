import numpy as np
import pytest
from medgen_review.statistics.friedman import friedman, holm, signed_rank_pairs
from medgen_review.statistics.intervals import UndefinedStatisticError
from scipy import stats
from statsmodels.stats.multitest import multipletests


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_treatments", [3, 4, 7])
def test_friedman_agrees_with_scipy_ties_included(seed: int, num_treatments: int) -> None:
    values = np.random.default_rng(seed).integers(0, 5, (15, num_treatments)).astype(np.float64)
    expected = stats.friedmanchisquare(*values.T)
    found = friedman(values)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)
    assert found.concordance == pytest.approx(expected.statistic / (15 * (num_treatments - 1)), abs=1e-9)


def test_two_treatments_without_ties_give_the_squared_sign_statistic() -> None:
    values = np.array([[1, 2], [3, 4], [9, 5], [0, 1], [2, 7]], dtype=np.float64)
    assert friedman(values).statistic == pytest.approx((4 - 1) ** 2 / 5)


def test_concordance_is_one_for_one_order_and_zero_for_balanced_orders() -> None:
    assert friedman(np.tile([1.0, 2.0, 3.0], (6, 1))).concordance == pytest.approx(1.0)
    latin = np.array([[1, 2, 3], [2, 3, 1], [3, 1, 2]], dtype=np.float64)
    result = friedman(latin)
    assert (result.concordance, result.p_value) == pytest.approx((0.0, 1.0))
    assert result.mean_ranks == pytest.approx((2.0, 2.0, 2.0))


def test_blocks_with_gaps_are_left_out_and_counted() -> None:
    values = np.array([[1, 2, 3], [2, np.nan, 1], [1, 3, 2]], dtype=np.float64)
    result = friedman(values)
    assert (result.num_blocks, result.num_left_out) == (2, 1)
    assert result.statistic == friedman(values[[0, 2]]).statistic


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((5, 1)), "one model"),
        (np.array([[1.0, 2.0]]), "at least two prompts .* got 1"),
        (np.ones((5, 3)), "equal values for every prompt"),
    ],
)
def test_friedman_says_why_it_does_not_exist(values: np.ndarray, message: str) -> None:
    with pytest.raises(UndefinedStatisticError, match=message):
        friedman(values)


def test_holm_agrees_with_statsmodels() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 6, 20):
        p_values = generator.random(count) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_pairs_agree_with_scipy_and_statsmodels() -> None:
    values = np.random.default_rng(1).normal(size=(20, 3)) + np.array([0.0, 0.4, 1.0])
    pairs = signed_rank_pairs(values, ["a", "b", "c"])
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    raw = [stats.wilcoxon(values[:, i], values[:, j]).pvalue for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [pair.p_value for pair in pairs] == pytest.approx(raw, abs=1e-9)
    assert [pair.p_holm for pair in pairs] == pytest.approx(multipletests(raw, method="holm")[1], abs=1e-9)


def test_exact_p_value_of_differences_of_one_sign() -> None:
    values = np.column_stack([np.zeros(6), np.arange(1.0, 7.0)])
    (pair,) = signed_rank_pairs(values, ["a", "b"])
    assert pair.statistic == 0.0
    assert pair.p_value == pytest.approx(2 / 2**6)


def test_models_that_always_tie_do_not_differ() -> None:
    (pair,) = signed_rank_pairs(np.ones((8, 2)), ["a", "b"])
    assert (pair.statistic, pair.p_value, pair.p_holm) == (0.0, 1.0, 1.0)


def test_pair_without_a_common_prompt_is_named() -> None:
    values = np.array([[1.0, np.nan], [np.nan, 2.0]])
    with pytest.raises(UndefinedStatisticError, match="a and b have no prompt in common"):
        signed_rank_pairs(values, ["a", "b"])
