import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.score_files import ItemScore
from medgen_review.statistics.aspects import aspect_tests
from medgen_review.statistics.tables import rating_table
from medgen_review.stats import review_stats, write_statistics
from medgen_review.study import StudyError

Rows = Callable[..., list[RatingRow]]


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from numbers_in(each)
    elif isinstance(value, float):
        yield value


def test_better_models_are_found_to_be_better(rating_rows: Rows) -> None:
    statistics = review_stats(rating_rows(num_prompts=12, num_raters=4, noise=0.7), seed=0)
    overall = [each.mean.value for each in statistics.means if each.aspect == "overall"]
    assert overall == sorted(overall, key=lambda value: value or 0.0)
    assert all(test.p_holm is not None and test.p_holm < 1e-3 for test in statistics.tests)
    assert all(pair.p_holm < 0.01 for test in statistics.tests for pair in test.pairs)
    assert [rank.item for rank in sorted(statistics.ranks, key=lambda each: each.mean_rank.value or 9.0)] == [
        "real",
        "model-2",
        "model-1",
        "model-0",
    ]
    assert statistics.rank_concordance.value is not None
    assert statistics.rank_concordance.value > 0.5


def test_equal_models_are_seldom_found_to_differ(rating_rows: Rows) -> None:
    found = 0
    for seed in range(40):
        rows = rating_rows(steps=(0.0, 0.0, 0.0), aspects=("realism",), ranks=False, num_raters=2, seed=seed)
        (test,) = aspect_tests(rating_table(rows))
        found += test.p_holm is not None and test.p_holm < 0.05
    assert found <= 6  # 5% of 40 is 2; more than 6 has a chance of 0.3%


def test_same_seed_gives_the_same_figures(rating_rows: Rows) -> None:
    rows = rating_rows(num_repeats=2)
    assert review_stats(rows, seed=3) == review_stats(rows, seed=3)
    assert review_stats(rows, seed=3).means != review_stats(rows, seed=4).means


def test_order_of_the_rows_does_not_matter(rating_rows: Rows) -> None:
    rows = rating_rows(aspects=("realism",))
    shuffled = sorted(rows, key=lambda row: (row.value, row.model, row.rater, row.prompt_id))
    assert review_stats(shuffled).means == review_stats(rows).means
    assert review_stats(shuffled).agreement == review_stats(rows).agreement


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"num_raters": 1}, "One rater: agreement between raters cannot be given"),
        ({"num_prompts": 1}, "One prompt: no test between models is possible"),
        ({"num_raters": 1, "num_prompts": 1, "steps": (0.0,), "ranks": False}, "One rater"),
        ({"noise": 0.0, "steps": (0.0, 0.0), "num_raters": 2}, "gave the same rating everywhere"),
        ({"ranks": False}, "3 raters: below 5"),
        ({"num_attention": 2}, "rater-1 answered 50% of the attention pages as asked"),
    ],
)
def test_small_studies_get_words_and_never_nan(
    rating_rows: Rows, study: dict[str, Any], words: str, tmp_path: Path
) -> None:
    statistics = review_stats(rating_rows(**study))
    assert any(words in warning for warning in statistics.warnings)
    written = {file.name: file for file in write_statistics(statistics, tmp_path)}
    content = json.loads(written["statistics.json"].read_text(encoding="utf-8"))
    assert all(math.isfinite(number) for number in numbers_in(content))
    page = written["results.html"].read_text(encoding="utf-8")
    assert "nan" not in page.replace("dominant", "").lower().split()
    assert ">nan<" not in page.lower()


def test_estimates_that_do_not_exist_say_why(rating_rows: Rows) -> None:
    statistics = review_stats(rating_rows(num_raters=1))
    (first, *_) = statistics.agreement
    for estimate in (
        first.icc_single,
        first.alpha_interval,
        first.kappa_quadratic,
        statistics.rank_concordance,
    ):
        assert (estimate.value, estimate.note) == (
            None,
            "one rater: agreement between raters cannot be given",
        )
    assert statistics.repeatability_note.startswith("no page was shown twice")
    assert all(test.friedman is not None for test in statistics.tests)


def test_missing_values_and_unequal_raters_are_counted(rating_rows: Rows) -> None:
    rows = rating_rows()
    kept = [row for row in rows if not (row.rater == "rater-2" and row.prompt_id >= "p02")]
    statistics = review_stats(kept)
    assert "rater-2 gave 12 ratings where others gave 36." in statistics.warnings
    assert {(each.num_subjects, each.num_left_out) for each in statistics.agreement} == {(6, 12)}
    assert all(each.mean.value is not None for each in statistics.means)


def test_scores_of_models_are_compared_with_the_ranks(rating_rows: Rows) -> None:
    scores = [ItemScore(f"model-{n}", None, "fbd", value) for n, value in enumerate((300.0, 200.0, 100.0))]
    statistics = review_stats(rating_rows(noise=0.2), scores=scores)
    (fbd,) = statistics.score_tiers
    assert fbd.spearman.value == pytest.approx(1.0)
    assert [tier.mean.value for tier in fbd.tiers] == [100.0, 200.0, 300.0]
    assert fbd.num_without_score == 18  # the real images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "1" * 64}, "2 values of `study`"),
        ({"highest": 5}, "2 values of `highest`"),
        ({"value": 11}, "rater 'rater-0', page 0, realism: .* between 0 and 10, got 11"),
        ({"value": -1}, "between 0 and 10, got -1"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(
    rating_rows: Rows, change: dict[str, Any], message: str
) -> None:
    first, *others = rating_rows()
    with pytest.raises(StudyError, match=message):
        review_stats([first.model_copy(update=change), *others])


def test_no_ratings_are_refused() -> None:
    with pytest.raises(StudyError, match="there are no ratings yet"):
        review_stats([])


def test_warnings_name_aspects_as_the_page_does(rating_rows: Rows) -> None:
    rows = rating_rows(noise=3.0, steps=(0.0, 0.0))
    warnings = review_stats(rows, aspect_names={"realism": "Clinical Realism"}).warnings
    assert any("agree little in Clinical Realism, diversity" in warning for warning in warnings)
