from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from medgen_review.statistics.agreement import (
    Array,
    Level,
    Weights,
    confusion,
    intraclass_correlation,
    krippendorff_alpha,
    mean_pairwise_kappa,
    mean_squares,
    resampled_kappa,
    weighted_kappa,
)
from medgen_review.statistics.intervals import UndefinedStatisticError
from nltk.metrics.agreement import AnnotationTask
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

# Shrout & Fleiss 1979, Table 2: six subjects, four judges.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=np.float64
)
_ = np.nan
# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability: four observers, twelve units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
).T


def ratings(seed: int, *, subjects: int = 30, raters: int = 4, missing: float = 0.0) -> Array:
    generator = np.random.default_rng(seed)
    truth = generator.normal(5, 2, (subjects, 1)) + generator.normal(0, 0.7, (1, raters))
    values = np.clip(np.round(truth + generator.normal(0, 1.2, (subjects, raters))), 0, 10)
    values[generator.random(values.shape) < missing] = np.nan
    return np.asarray(values)


def alpha_by_definition(values: Array, level: Level) -> float:
    """Disagreement of ordered pairs within units over that of all ordered pairs, without coincidence tables."""
    units = [row[np.isfinite(row)] for row in values]
    units = [unit for unit in units if len(unit) > 1]
    pooled = np.concatenate(units)

    def distance(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum((pooled == value).sum() for value in range(int(low), int(high) + 1))
        return float(between - ((pooled == a).sum() + (pooled == b).sum()) / 2) ** 2

    observed = sum(sum(distance(a, b) for a, b in permutations(u, 2)) / (len(u) - 1) for u in units)
    expected = sum(distance(a, b) for a, b in permutations(pooled, 2)) / (len(pooled) - 1)
    return float(1 - observed / expected)


def test_icc_of_shrout_and_fleiss() -> None:
    icc = intraclass_correlation(SHROUT_FLEISS)
    assert icc.single.value == pytest.approx(0.2897637795275591, abs=1e-12)
    assert icc.average.value == pytest.approx(0.6200505475989893, abs=1e-12)
    # As printed by the usual statistical packages for this table.
    assert icc.single.interval == pytest.approx((0.02, 0.76), abs=0.005)
    assert icc.average.interval == pytest.approx((0.07, 0.93), abs=0.005)
    assert (icc.num_subjects, icc.num_raters, icc.num_left_out) == (6, 4, 0)


@pytest.mark.parametrize("seed", range(5))
def test_mean_squares_and_icc_agree_with_an_anova_of_statsmodels(seed: int) -> None:
    values = ratings(seed)
    subject, rater = np.indices(values.shape)
    frame = pd.DataFrame({"s": subject.ravel(), "r": rater.ravel(), "y": values.ravel()})
    anova = anova_lm(ols("y ~ C(s) + C(r)", frame).fit(), typ=2)
    bms, jms, ems = (anova["sum_sq"] / anova["df"])[["C(s)", "C(r)", "Residual"]]
    found = mean_squares(values)
    assert (found.subjects, found.raters, found.error) == pytest.approx((bms, jms, ems), rel=1e-9)
    n, k = values.shape
    icc = intraclass_correlation(values)
    assert icc.single.value == pytest.approx(
        (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n), abs=1e-9
    )
    assert icc.average.value == pytest.approx((bms - ems) / (bms + (jms - ems) / n), abs=1e-9)


def test_icc_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth = 4 / (4 + 0.5**2 + 1.5**2)
    covered = 0
    for _trial in range(400):
        values = (
            generator.normal(0, 2, (40, 1))
            + generator.normal(0, 0.5, (1, 6))
            + generator.normal(0, 1.5, (40, 6))
        )
        interval = intraclass_correlation(values).single.interval
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert 0.92 <= covered / 400 <= 0.98


def test_subjects_with_gaps_are_left_out_of_the_icc_and_counted() -> None:
    values = ratings(0)
    values[3, 1] = values[7, 0] = np.nan
    icc = intraclass_correlation(values)
    whole = intraclass_correlation(np.delete(values, [3, 7], axis=0))
    assert (icc.single, icc.num_left_out) == (whole.single, 2)


def test_raters_who_agree_in_every_value_have_icc_one_without_interval() -> None:
    icc = intraclass_correlation(np.tile(np.arange(5.0)[:, None], (1, 3)))
    assert icc.single.value == 1.0
    assert icc.single.interval is None
    assert "agree in every value" in icc.single.note


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_krippendorffs_example(level: Level, published: float) -> None:
    assert krippendorff_alpha(KRIPPENDORFF, level, num_values=6) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_alpha_agrees_with_its_definition(level: Level, missing: float) -> None:
    for seed in range(3):
        values = ratings(seed, missing=missing)
        found = krippendorff_alpha(values, level, num_values=11)
        assert found == pytest.approx(alpha_by_definition(values, level), abs=1e-9)


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_agrees_with_nltk(level: Level) -> None:
    values = ratings(4)
    triples = [(f"rater{r}", s, int(v)) for (s, r), v in np.ndenumerate(values)]
    distances = {
        "nominal": lambda a, b: float(a != b),
        "interval": lambda a, b: float((a - b) ** 2),
    }
    task = AnnotationTask(triples, distance=distances[level])
    assert krippendorff_alpha(values, level, num_values=11) == pytest.approx(task.alpha(), abs=1e-9)


@pytest.mark.parametrize("weights", ["linear", "quadratic"])
def test_kappa_agrees_with_scikit_learn(weights: Weights) -> None:
    values = ratings(1, raters=3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [
        cohen_kappa_score(values[:, i], values[:, j], weights=weights, labels=range(11)) for i, j in pairs
    ]
    found = [weighted_kappa(values[:, i], values[:, j], weights, num_values=11) for i, j in pairs]
    assert found == pytest.approx(expected, abs=1e-9)
    assert mean_pairwise_kappa(values, weights, num_values=11) == pytest.approx(np.mean(expected), abs=1e-9)


def test_quadratic_kappa_of_equal_margins_is_the_correlation_of_pearson() -> None:
    first = np.array([0, 1, 2, 3, 4, 5, 6, 7], dtype=np.float64)
    second = np.array([1, 0, 2, 4, 3, 5, 7, 6], dtype=np.float64)
    expected = stats.pearsonr(first, second).statistic
    assert weighted_kappa(first, second, "quadratic", num_values=11) == pytest.approx(expected, abs=1e-12)


def test_a_rater_without_common_subjects_is_left_out_of_the_mean_kappa() -> None:
    values = np.column_stack([ratings(2, raters=2), np.full(30, np.nan)])
    expected = weighted_kappa(values[:, 0], values[:, 1], "linear", num_values=11)
    assert mean_pairwise_kappa(values, "linear", num_values=11) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((5, 1)), "one rater"),
        (np.ones((1, 3)), "at least two subjects"),
        (np.ones((5, 3)), "all ratings are equal"),
        (
            np.array([[1.0, np.nan], [np.nan, 2.0], [3.0, 3.0]]),
            "two subjects that every rater rated, got 1 of 3",
        ),
    ],
)
def test_icc_says_why_it_does_not_exist(values: Array, message: str) -> None:
    with pytest.raises(UndefinedStatisticError, match=message):
        intraclass_correlation(values)


def test_alpha_and_kappa_say_why_they_do_not_exist() -> None:
    with pytest.raises(UndefinedStatisticError, match="no subject was rated by two raters"):
        krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]]), "interval", num_values=11)
    with pytest.raises(UndefinedStatisticError, match="all ratings are equal"):
        krippendorff_alpha(np.full((4, 3), 7.0), "nominal", num_values=11)
    with pytest.raises(UndefinedStatisticError, match="no subject in common"):
        weighted_kappa(np.array([1.0, np.nan]), np.array([np.nan, 1.0]), "linear", num_values=11)
    with pytest.raises(UndefinedStatisticError, match="one and the same value"):
        weighted_kappa(np.full(4, 3.0), np.full(4, 3.0), "linear", num_values=11)
    with pytest.raises(UndefinedStatisticError, match="no two raters"):
        mean_pairwise_kappa(np.full((4, 2), 3.0), "linear", num_values=11)


def test_resampled_kappa_is_kappa_of_the_drawn_prompts() -> None:
    values = ratings(3, raters=2).reshape(10, 3, 2)  # ten prompts of three sets
    tables = np.stack([confusion(prompt[:, 0], prompt[:, 1], 11) for prompt in values])
    weights = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=5).astype(np.float64)
    found = resampled_kappa(tables, weights, "linear")
    for sample, weight in zip(found, weights, strict=True):
        drawn = np.repeat(values, weight.astype(int), axis=0).reshape(-1, 2)
        expected = cohen_kappa_score(drawn[:, 0], drawn[:, 1], weights="linear", labels=range(11))
        assert sample == pytest.approx(expected, abs=1e-9)
