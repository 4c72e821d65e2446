import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from medgen_review.audit import read_trail, verify_trail
from medgen_review.export import Exported, export_ratings
from medgen_review.rating_files import ratings_only, read_ratings
from medgen_review.schedule import places_on
from medgen_review.store import Change, RatingStore
from medgen_review.study import RANK, REAL, Study, StudyError

MakeStudy = Callable[..., Study]


def rated(study: Study, folder: Path, *, names: tuple[str, ...] = ("Dr. A", "=cmd()")) -> Exported:
    """Rate a study so that each value tells which model it was given to, and export it."""
    with RatingStore.open(folder / "ratings.sqlite", study) as store:
        for name in names:
            number = store.enrol(name).rater.number
            for page in store.pages(number):
                changes = []
                for _, letter, field in places_on(study, page):
                    model = page.model_of(letter)
                    worth = 1 if model == REAL else 2 + study.models.index(model)
                    value = page.attention.value if page.attention else worth
                    changes.append(Change(letter, field, value))
                store.record_all(number, page.number, changes, action_id=f"action {page.number}")
        store.finish(0)
        return export_ratings(study, store, folder / "out")


def test_every_value_is_a_row_that_names_its_model(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(num_prompts=3, num_models=2, num_repeats=1, num_attention=1)
    exported = rated(study, tmp_path)
    rows = read_ratings(exported.ratings_jsonl)
    assert len(rows) == exported.num_values == exported.num_expected == 2 * (4 * (2 * 6 + 3) + 1)
    assert exported.unfinished == ("=cmd()",)
    worth = {REAL: 1, "model-0": 2, "model-1": 3}
    for row in rows:
        assert row.study == study.digest
        assert row.value == (row.expected if row.kind == "attention" else worth[row.model])
        assert (row.letter, row.position) in {("", -1), ("A", 0), ("B", 1)}
        assert (row.model == REAL) == (row.letter == "")
    kinds = Counter(row.kind for row in rows)
    assert kinds == {"rating": 2 * 4 * 12, "rank": 2 * 4 * 3, "attention": 2}
    assert len(ratings_only(rows)) == 2 * 3 * 12
    assert len(ratings_only(rows, repeats=True)) == 2 * 4 * 12


def test_the_table_holds_the_same_rows_and_no_formulas(make_study: MakeStudy, tmp_path: Path) -> None:
    exported = rated(make_study(num_prompts=2), tmp_path)
    rows = [json.loads(line) for line in exported.ratings_jsonl.read_text().splitlines()]
    table = list(csv.DictReader(io.StringIO(exported.ratings_csv.read_text())))
    assert len(table) == len(rows)
    for one, other in zip(table, rows, strict=True):
        assert one["rater"] == ("Dr. A" if other["rater"] == "Dr. A" else "'=cmd()")
        for key in set(one) - {"rater"}:
            assert one[key] == ("" if other[key] is None else str(other[key]))


def test_ranks_are_those_of_first_showings_with_the_columns_of_the_metrics(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(num_prompts=3, num_models=2, num_repeats=2)
    exported = rated(study, tmp_path, names=("A",))
    with exported.ranks_csv.open() as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == ["prompt", "item", "rank", "rater"]
    assert len(table) == len({(row["prompt"], row["item"]) for row in table}) == 3 * 3
    assert {(row["item"], row["rank"]) for row in table} == {(REAL, "1"), ("model-0", "2"), ("model-1", "3")}


def test_the_trail_is_exported_whole(make_study: MakeStudy, tmp_path: Path) -> None:
    exported = rated(make_study(num_prompts=2), tmp_path)
    trail = read_trail(exported.audit_jsonl)
    assert verify_trail(trail) == 1 + 2 + 2 * 2 * 22 + 1
    assert trail[-1].kind == "finished"


def test_of_changed_values_the_last_is_a_row_and_those_taken_back_are_none(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(num_prompts=1)
    with RatingStore.open(tmp_path / "r.sqlite", study) as store:
        store.enrol("A")
        for version, value in enumerate((3, 4, 5)):
            store.record(0, 0, "A", "diversity", value, action_id=f"action {value}", seen_version=version)
        store.record(0, 0, "B", RANK, 1, action_id="action-4")
        store.record(0, 0, "B", RANK, None, action_id="action-5", seen_version=1)
        exported = export_ratings(study, store, tmp_path / "out")
    (row,) = read_ratings(exported.ratings_jsonl)
    assert (row.aspect, row.value) == ("diversity", 5)
    assert (exported.num_values, exported.num_expected) == (1, 22)


def test_an_export_of_another_study_or_to_an_impossible_place_is_refused(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study()
    with RatingStore.open(tmp_path / "r.sqlite", study) as store:
        with pytest.raises(StudyError, match="ratings are of another study"):
            export_ratings(make_study(seed=1), store, tmp_path / "out")
        (tmp_path / "out").write_text("a file")
        with pytest.raises(StudyError, match=r"cannot be written .*What was there before is unchanged"):
            export_ratings(study, store, tmp_path / "out")
