"""What the ratings of a study mean: all statistics at once, and the files they are written to.

Nothing here needs the study file: rows of ratings are enough. What cannot be computed is said in words.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medgen_review import atomic
from medgen_review.rating_files import RatingRow
from medgen_review.score_files import ItemScore, scores_of_table
from medgen_review.statistics.aspects import AspectAgreement, AspectTest, aspect_agreement, aspect_tests
from medgen_review.statistics.checks import PositionEffect, RaterProfile, position_effect, rater_profiles
from medgen_review.statistics.intervals import Estimate, UndefinedStatisticError
from medgen_review.statistics.means import (
    MeanDifference,
    ModelMean,
    RephrasingDifference,
    mean_differences,
    model_means,
    rephrasing_differences,
)
from medgen_review.statistics.ranks import RankSummary, rank_concordance, rank_summaries
from medgen_review.statistics.repeatability import Repeatability, Repeated, repeatability, repeated_values
from medgen_review.statistics.tables import Table, rank_table, rating_table
from medgen_review.statistics.tiers import ScoreTiers, score_tiers
from medgen_review.study import Study, StudyError

FEW_RATERS = 5
LOW_ALPHA = 0.667  # "the lowest conceivable limit" for tentative conclusions (Krippendorff 2004)
_NUM_SHOWN = 5


@dataclass(frozen=True)
class RepeatedBy:
    """Repeatability of one group of values.

    Attributes:
        group: `all ratings`, `all ranks`, a rater or an aspect.
        kind: `all`, `rater` or `aspect`.
        figures: Of the group.
    """

    group: str
    kind: str
    figures: Repeatability


@dataclass(frozen=True)
class ReviewStatistics:
    """All figures of a study; every `Estimate` without a value says why in its note."""

    study: str
    highest: int
    seed: int
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    aspects: tuple[str, ...]
    raters: tuple[RaterProfile, ...]
    means: tuple[ModelMean, ...]
    differences: tuple[MeanDifference, ...]
    rephrasing: tuple[RephrasingDifference, ...]
    tests: tuple[AspectTest, ...]
    agreement: tuple[AspectAgreement, ...]
    ranks: tuple[RankSummary, ...]
    rank_tests: tuple[AspectTest, ...]
    rank_concordance: Estimate
    score_tiers: tuple[ScoreTiers, ...]
    repeatability: tuple[RepeatedBy, ...]
    repeatability_note: str
    position: PositionEffect
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a JSON object; what does not exist is null, with a note."""
        return asdict(self)


def review_stats(
    rows: Sequence[RatingRow],
    *,
    scores: Iterable[ItemScore] = (),
    seed: int = 0,
    aspect_names: Mapping[str, str] | None = None,
) -> ReviewStatistics:
    """Compute everything that the ratings can tell.

    Args:
        rows: Of one study, as exported.
        scores: Automatic scores to compare with the ranks.
        seed: Seed of all bootstraps.
        aspect_names: Names of the aspects by key, for the warnings; the key where there is none.

    Raises:
        StudyError: If there are no rows, rows of two studies, a value given twice, or scores of unknown models.
    """
    _check(rows)
    ratings, ranks = rating_table(rows), rank_table(rows)
    highest = rows[0].highest
    kinds: dict[str, str] = {row.prompt_id: row.prompt_kind for row in rows}
    tiers, warnings = scores_of_table(ranks, scores)
    repeated, note = _repeated(rows, highest)
    profiles = rater_profiles(rows)
    position = _position(rows, seed)
    agreement = aspect_agreement(ratings, highest=highest, seed=seed)
    return ReviewStatistics(
        study=rows[0].study,
        highest=highest,
        seed=seed,
        prompts=tuple(sorted({row.prompt_id for row in rows if row.kind != "attention"})),
        models=ratings.items,
        aspects=ratings.aspects,
        raters=profiles,
        means=model_means(ratings, seed=seed),
        differences=mean_differences(ratings, seed=seed),
        rephrasing=rephrasing_differences(ratings, kinds, seed=seed),
        tests=aspect_tests(ratings),
        agreement=agreement,
        ranks=rank_summaries(ranks, seed=seed),
        rank_tests=aspect_tests(ranks),
        rank_concordance=_concordance(ranks, seed),
        score_tiers=score_tiers(ranks, tiers, seed=seed) if tiers else (),
        repeatability=repeated,
        repeatability_note=note,
        position=position,
        warnings=(*_warnings(ratings, profiles, agreement, position, aspect_names or {}), *warnings),
    )


def write_statistics(
    statistics: ReviewStatistics, folder: Path, *, study: Study | None = None
) -> tuple[Path, ...]:
    """Write `statistics.json`, `results.html` and the figures as SVG and PNG.

    Args:
        statistics: Of `review_stats`.
        folder: Where to write; missing folders are made.
        study: Gives the title and the names of the aspects; without it their keys are shown.

    Returns:
        The files.

    Raises:
        StudyError: If the ratings are of another study, or a file cannot be written.
    """
    from medgen_review.figures import draw_figures
    from medgen_review.results_page import render_results

    if study is not None and study.digest != statistics.study:
        raise StudyError("the ratings are of another study; give the study file they were collected for")
    names = {aspect.key: aspect.name for aspect in study.aspects} if study else {}
    figures = draw_figures(statistics, names)
    written = [folder / "statistics.json"]
    text = json.dumps(statistics.to_json(), ensure_ascii=False, indent=2, allow_nan=False)
    atomic.write_text(written[0], f"{text}\n")
    for figure in figures:
        for suffix, content in (("svg", figure.svg.encode()), ("png", figure.png)):
            written.append(folder / "figures" / f"{figure.name}.{suffix}")
            atomic.write_bytes(written[-1], content)
    written.append(folder / "results.html")
    title = study.title if study else "Ratings"
    atomic.write_text(written[-1], render_results(statistics, figures, title=title, aspect_names=names))
    return tuple(written)


def _check(rows: Sequence[RatingRow]) -> None:
    if not any(row.kind == "rating" for row in rows):
        raise StudyError("there are no ratings yet: nothing can be computed")
    for field in ("study", "highest"):
        found = sorted({str(getattr(row, field)) for row in rows})
        if len(found) > 1:
            raise StudyError(
                f"the rows have {len(found)} values of `{field}` ({found[0][:12]}, {found[1][:12]}): ratings of "
                "different studies are not put together"
            )
    beyond = next((row for row in rows if row.kind == "rating" and not 0 <= row.value <= row.highest), None)
    if beyond is not None:
        raise StudyError(
            f"rater {beyond.rater!r}, page {beyond.page}, {beyond.aspect}: the rating must lie between 0 and "
            f"{beyond.highest}, got {beyond.value}"
        )


def _concordance(ranks: Table, seed: int) -> Estimate:
    if not ranks.items:
        return Estimate(None, None, "nothing was ranked")
    try:
        return rank_concordance(ranks, seed=seed)
    except UndefinedStatisticError as error:
        return Estimate(None, None, str(error))


def _position(rows: Sequence[RatingRow], seed: int) -> PositionEffect:
    try:
        return position_effect(rows, seed=seed)
    except UndefinedStatisticError as error:
        return PositionEffect((), None, str(error))


def _repeated(rows: Sequence[RatingRow], highest: int) -> tuple[tuple[RepeatedBy, ...], str]:
    pairs = repeated_values(rows)
    if not pairs:
        return (), "no page was shown twice: how far a rater repeats cannot be given"
    ratings = [pair for pair in pairs if pair.kind == "rating"]
    ranks = [pair for pair in pairs if pair.kind == "rank"]
    groups: list[tuple[str, str, list[Repeated]]] = [
        ("all ratings", "all", ratings),
        ("all ranks", "all", ranks),
    ]
    groups += [
        (rater, "rater", [pair for pair in ratings if pair.rater == rater])
        for rater in sorted({pair.rater for pair in ratings})
    ]
    groups += [
        (aspect, "aspect", [pair for pair in ratings if pair.aspect == aspect])
        for aspect in dict.fromkeys(row.aspect for row in rows if row.kind == "rating")
    ]
    most = max(highest, *(max(pair.first, pair.second) for pair in pairs))
    return tuple(
        RepeatedBy(group, kind, repeatability(chosen, highest=most))
        for group, kind, chosen in groups
        if chosen
    ), ""


def _warnings(
    ratings: Table,
    profiles: Sequence[RaterProfile],
    agreement: Sequence[AspectAgreement],
    position: PositionEffect,
    aspect_names: Mapping[str, str],
) -> list[str]:
    warnings = []
    num_raters = len(ratings.raters)
    if num_raters == 1:
        warnings.append(
            "One rater: agreement between raters cannot be given, and the intervals say nothing about other raters."
        )
    elif num_raters < FEW_RATERS:
        warnings.append(
            f"{num_raters} raters: below {FEW_RATERS}, intervals say little about other raters than these."
        )
    if len(ratings.prompts) == 1:
        warnings.append(
            "One prompt: no test between models is possible, and nothing is known about other prompts."
        )
    whole = max(profile.num_ratings for profile in profiles)
    for profile in profiles:
        warnings += _rater_warnings(profile, whole)
    low = [
        aspect_names.get(each.aspect, each.aspect)
        for each in agreement
        if each.alpha_interval.value is not None and each.alpha_interval.value < LOW_ALPHA
    ]
    if low:
        warnings.append(
            f"Raters agree little in {', '.join(low)} (Krippendorff's alpha for intervals below {LOW_ALPHA}): read "
            "the means there with care."
        )
    if position.p_value is not None and position.p_value < 0.01:
        warnings.append(
            f"The place on the page seems to matter (p = {position.p_value:.2g}): compare models only where the "
            "orders were balanced."
        )
    return warnings


def _rater_warnings(profile: RaterProfile, whole: int) -> list[str]:
    warnings = []
    if profile.num_ratings < whole:
        warnings.append(f"{profile.rater} gave {profile.num_ratings} ratings where others gave {whole}.")
    if profile.deviation == 0 and profile.num_ratings >= _NUM_SHOWN:
        warnings.append(f"{profile.rater} gave the same rating everywhere.")
    share = profile.attention.value
    if share is not None and not math.isclose(share, 1.0):
        warnings.append(f"{profile.rater} answered {share:.0%} of the attention pages as asked.")
    return warnings
