"""Agreement of the raters and differences of the models, aspect by aspect, with intervals or a reason for none.

Shapes: P prompts, M items, R raters, V values of the scale, B bootstrap samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medgen_review.statistics.agreement import (
    Level,
    Weights,
    alpha_of_coincidences,
    coincidences,
    confusion,
    intraclass_correlation,
    krippendorff_alpha,
    mean_pairwise_kappa,
    resampled_kappa,
)
from medgen_review.statistics.friedman import FriedmanTest, PairTest, friedman, holm, signed_rank_pairs
from medgen_review.statistics.intervals import (
    Estimate,
    UndefinedStatisticError,
    bootstrap_estimate,
    draw_resamples,
)
from medgen_review.statistics.tables import Table, prompt_means

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AspectAgreement:
    """How far the raters agree in one aspect; subjects are the sets of all models for all prompts.

    Attributes:
        aspect: Key.
        icc_single: ICC(2,1), F-based interval.
        icc_average: ICC(2,k), F-based interval.
        alpha_nominal: Krippendorff's alpha; intervals of alpha and kappa are from a bootstrap over prompts.
        alpha_ordinal: Same, for ranks of values.
        alpha_interval: Same, for distances of values.
        kappa_linear: Mean weighted kappa of all pairs of raters.
        kappa_quadratic: Same with squared distances.
        num_subjects: Sets that every rater rated: those of the ICC.
        num_left_out: Sets that some rater did not rate.
    """

    aspect: str
    icc_single: Estimate
    icc_average: Estimate
    alpha_nominal: Estimate
    alpha_ordinal: Estimate
    alpha_interval: Estimate
    kappa_linear: Estimate
    kappa_quadratic: Estimate
    num_subjects: int
    num_left_out: int


@dataclass(frozen=True)
class AspectTest:
    """Whether the models differ in one aspect.

    Attributes:
        aspect: Key.
        friedman: Over prompts; None where it does not exist.
        p_holm: Its p-value, corrected over the aspects.
        pairs: Signed-rank tests of each two models, corrected over the pairs of this aspect.
        note: Why there is no test.
    """

    aspect: str
    friedman: FriedmanTest | None
    p_holm: float | None
    pairs: tuple[PairTest, ...]
    note: str


def aspect_agreement(table: Table, *, highest: int, seed: int) -> tuple[AspectAgreement, ...]:
    """Return the agreement in every aspect.

    Args:
        table: Ratings, 0 to `highest`.
        highest: Highest value of the scale.
        seed: Seed of the bootstrap over prompts.
    """
    weights = draw_resamples(len(table.prompts), 1, seed=seed).prompts
    return tuple(
        _agreement(aspect, values, weights, highest + 1)
        for aspect, values in zip(table.aspects, table.values, strict=True)
    )


def _agreement(aspect: str, values: Array, weights: Array, num_values: int) -> AspectAgreement:
    subjects = values.reshape(-1, values.shape[-1])  # [P M, R]
    whole = int(np.isfinite(subjects).all(axis=1).sum())
    try:
        icc = intraclass_correlation(subjects)
        single, average = icc.single, icc.average
    except UndefinedStatisticError as error:
        single = average = Estimate(None, None, str(error))
    return AspectAgreement(
        aspect=aspect,
        icc_single=single,
        icc_average=average,
        alpha_nominal=_alpha(values, subjects, "nominal", weights, num_values),
        alpha_ordinal=_alpha(values, subjects, "ordinal", weights, num_values),
        alpha_interval=_alpha(values, subjects, "interval", weights, num_values),
        kappa_linear=_kappa(values, subjects, "linear", weights, num_values),
        kappa_quadratic=_kappa(values, subjects, "quadratic", weights, num_values),
        num_subjects=whole,
        num_left_out=len(subjects) - whole,
    )


def _alpha(values: Array, subjects: Array, level: Level, weights: Array, num_values: int) -> Estimate:
    def samples() -> Array:
        tables = np.stack([coincidences(prompt, num_values) for prompt in values]).reshape(len(values), -1)
        # In parts: with a scale of a hundred values all samples at once would take hundreds of megabytes.
        parts = np.array_split(weights, max(1, len(weights) * num_values**2 // 1_000_000))
        shape = (-1, num_values, num_values)
        return np.concatenate(
            [alpha_of_coincidences((part @ tables).reshape(shape), level) for part in parts]
        )

    return _defined(lambda: krippendorff_alpha(subjects, level, num_values=num_values), samples, values)


def _kappa(values: Array, subjects: Array, kind: Weights, weights: Array, num_values: int) -> Estimate:
    def samples() -> Array:
        sums = np.zeros(len(weights))
        defined = np.zeros(len(weights))
        for first, second in combinations(range(values.shape[-1]), 2):
            tables = np.stack([confusion(each[:, first], each[:, second], num_values) for each in values])
            kappas = resampled_kappa(tables, weights, kind)
            sums += np.nan_to_num(kappas)
            defined += np.isfinite(kappas)
        return np.asarray(np.divide(sums, defined, out=np.full(len(sums), np.nan), where=defined > 0))

    return _defined(lambda: mean_pairwise_kappa(subjects, kind, num_values=num_values), samples, values)


def _defined(value: Callable[[], float], samples: Callable[[], Array], values: Array) -> Estimate:
    if values.shape[-1] < 2:
        return Estimate(None, None, "one rater: agreement between raters cannot be given")
    try:
        point = value()
    except UndefinedStatisticError as error:
        return Estimate(None, None, str(error))
    return bootstrap_estimate(point, samples(), num_units=len(values))


def aspect_tests(table: Table) -> tuple[AspectTest, ...]:
    """Test every aspect for differences between models, by means over raters; ranks are tested the same way."""
    tests = [
        _test(aspect, prompt_means(values), table.items)
        for aspect, values in zip(table.aspects, table.values, strict=True)
    ]
    made = [test for test in tests if test.friedman is not None]
    corrected = iter(holm([test.friedman.p_value for test in made if test.friedman is not None]))
    return tuple(replace(test, p_holm=float(next(corrected))) if test.friedman else test for test in tests)


def _test(aspect: str, means: Array, items: tuple[str, ...]) -> AspectTest:
    try:
        return AspectTest(aspect, friedman(means), None, signed_rank_pairs(means, items), "")
    except UndefinedStatisticError as error:
        return AspectTest(aspect, None, None, (), str(error))
