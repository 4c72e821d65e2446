"""Would a rater say the same again? Pages shown twice.

Shapes: N repeated values.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgen_review.rating_files import RatingRow
from medgen_review.statistics.agreement import intraclass_correlation, weighted_kappa
from medgen_review.statistics.intervals import Estimate, UndefinedStatisticError

Array = NDArray[np.float64]
Key = tuple[str, str, str, str, str]  # rater, prompt, item, kind, aspect


@dataclass(frozen=True)
class Repeated:
    """First and second value of one place.

    Attributes:
        rater: Name.
        kind: `rating` or `rank`.
        aspect: Key; empty for ranks.
        first: Of the first showing.
        second: Of the second.
    """

    rater: str
    kind: str
    aspect: str
    first: int
    second: int


@dataclass(frozen=True)
class Repeatability:
    """How far second values are from first ones.

    Attributes:
        deviation: Within-subject standard deviation, in points.
        coefficient: Two values of one thing differ by less in 95% of cases: 1.96 sqrt(2) deviation.
        change: Mean of second minus first.
        same: Share of values given again exactly.
        icc: ICC(2,1) of first and second values.
        kappa: Quadratic weighted kappa of the same.
        num_values: N.
    """

    deviation: float
    coefficient: float
    change: float
    same: float
    icc: Estimate
    kappa: Estimate
    num_values: int


def repeated_values(rows: Iterable[RatingRow]) -> tuple[Repeated, ...]:
    """Return the values that were given twice, first and second showing side by side."""
    shown: dict[int, dict[Key, int]] = {0: {}, 1: {}}
    for row in rows:
        if row.kind != "attention":
            shown[row.repeat][row.rater, row.prompt_id, row.model, row.kind, row.aspect] = row.value
    both = sorted(shown[0].keys() & shown[1].keys())
    return tuple(Repeated(key[0], key[3], key[4], shown[0][key], shown[1][key]) for key in both)


def repeatability(pairs: Iterable[Repeated], *, highest: int) -> Repeatability:
    """Compare first and second values.

    s_w = sqrt(sum (second - first)^2 / (2 N))                       (Bland & Altman 1996)

    Of several raters together the correlation also counts how lenient each is, and is higher than that of one.

    Args:
        pairs: Values given twice.
        highest: Highest value of the scale.

    Raises:
        UndefinedStatisticError: If there are none.
    """
    table = np.array([(pair.first, pair.second) for pair in pairs], dtype=np.float64).reshape(-1, 2)
    if not len(table):
        raise UndefinedStatisticError("no page was shown twice: the study has no repeats")
    first, second = table.T
    change = second - first
    deviation = float(np.sqrt((change**2).mean() / 2))
    return Repeatability(
        deviation=deviation,
        coefficient=1.96 * float(np.sqrt(2)) * deviation,
        change=float(change.mean()),
        same=float((change == 0).mean()),
        icc=_icc(first, second),
        kappa=_kappa(first, second, highest),
        num_values=len(first),
    )


def _icc(first: Array, second: Array) -> Estimate:
    try:
        return intraclass_correlation(np.column_stack([first, second])).single
    except UndefinedStatisticError as error:
        return Estimate(None, None, str(error))


def _kappa(first: Array, second: Array, highest: int) -> Estimate:
    try:
        kappa = weighted_kappa(first, second, "quadratic", num_values=highest + 1)
    except UndefinedStatisticError as error:
        return Estimate(None, None, str(error))
    return Estimate(kappa)
