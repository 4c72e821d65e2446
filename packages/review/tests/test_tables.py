from collections.abc import Callable

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow
from medgen_review.statistics.tables import prompt_means, rank_table, rating_table
from medgen_review.study import StudyError

Rows = Callable[..., list[RatingRow]]


def test_every_value_is_in_its_place(rating_rows: Rows) -> None:
    rows = rating_rows(num_repeats=2, num_attention=1)
    table = rating_table(rows)
    assert table.values.shape == (2, 6, 3, 3)
    for row in rows:
        if row.kind == "rating" and row.repeat == 0:
            place = (
                table.aspects.index(row.aspect),
                table.prompts.index(row.prompt_id),
                table.items.index(row.model),
                table.raters.index(row.rater),
            )
            assert table.values[place] == row.value


def test_real_images_come_last(rating_rows: Rows) -> None:
    assert rank_table(rating_rows(num_prompts=1)).items == ("model-0", "model-1", "model-2", "real")


def test_a_place_given_twice_is_refused(rating_rows: Rows) -> None:
    rows = rating_rows()
    with pytest.raises(StudyError, match=r"'rater-0' gave 'realism' of 'model-.' for prompt 'p00' twice"):
        rating_table([*rows, rows[0]])


def test_gaps_are_nan_and_left_out_of_means(rating_rows: Rows) -> None:
    rows = rating_rows()
    table = rating_table(rows[1:])
    assert np.isnan(table.values).sum() == 1
    values = np.array([[[1.0, np.nan], [np.nan, np.nan]]])
    assert prompt_means(values)[0, 0] == 1.0
    assert np.isnan(prompt_means(values)[0, 1])


def test_no_rows_make_an_empty_table() -> None:
    assert rating_table([]).values.shape == (0, 0, 0, 0)
