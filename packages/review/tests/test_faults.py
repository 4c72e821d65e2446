"""Locked, full, damaged, absent: what the store says, and that nothing is lost."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from medgen_review import database
from medgen_review.schedule import Place
from medgen_review.store import Change, RatingStore, RefusedError, StoreError
from medgen_review.study import Study

MakeStudy = Callable[..., Study]
REALISM = "clinical_realism"


def test_a_locked_database_is_told_and_takes_the_same_request_later(
    tmp_path: Path, make_study: MakeStudy
) -> None:
    file = tmp_path / "ratings.sqlite"
    with RatingStore.open(file, make_study(), timeout_s=0.2) as store:
        number = store.enrol("A").rater.number
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            StoreError, match=r"ratings.sqlite: locked by another program .*nothing was written, try"
        ):
            store.record(number, 0, "A", REALISM, 5, action_id="action-1")
        assert not store.values(number)  # readers are not kept out
        other.execute("ROLLBACK")
        other.close()
        assert store.record(number, 0, "A", REALISM, 5, action_id="action-1").current == 5
        store.verify()


def test_a_locked_table_of_postgresql_is_told(new_postgresql: str, make_study: MakeStudy) -> None:
    with RatingStore.open(new_postgresql, make_study(), timeout_s=0.3) as store:
        number = store.enrol("A").rater.number
        with psycopg.connect(new_postgresql) as other:
            other.execute("LOCK TABLE review_events IN EXCLUSIVE MODE")
            with pytest.raises(StoreError, match="locked by another program") as caught:
                store.record(number, 0, "A", REALISM, 5, action_id="action-1")
            assert not isinstance(caught.value, RefusedError)
            assert not store.values(number)
        assert store.record(number, 0, "A", REALISM, 5, action_id="action-1").current == 5


def test_a_writer_that_does_not_end_does_not_hold_the_other_threads_for_ever(
    tmp_path: Path, make_study: MakeStudy
) -> None:
    with RatingStore.open(tmp_path / "r.sqlite", make_study(), timeout_s=0.1) as store:
        number = store.enrol("A").rater.number
        with (
            store._one_writer,
            pytest.raises(StoreError, match="busy with other writers; nothing was written"),
        ):
            store.record(number, 0, "A", REALISM, 5, action_id="action-1")


def test_sqlite_flushes_every_commit_to_the_disk(tmp_path: Path, make_study: MakeStudy) -> None:
    with (
        RatingStore.open(tmp_path / "r.sqlite", make_study()) as store,
        store._engine.connect() as connection,
    ):
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


# The limit on the size of a file stands for a disk without room: the write fails alike.
FULL_DISK = """
import resource, sys
from pathlib import Path
from medgen_review.schedule import places_on
from medgen_review.store import RatingStore, StoreError
from medgen_review.study import read_study

study = read_study(Path(sys.argv[1]))
store = RatingStore.open(sys.argv[2], study)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    for page in store.pages(0):
        for _, letter, field in places_on(study, page):
            store.record(0, page.number, letter, field, 1, action_id=f"action-{page.number}-{letter}-{field}")
            print(f"{page.number},{letter},{field}", flush=True)
except StoreError as error:
    print(error, file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = store.record(0, page.number, letter, field, 1, action_id=f"action-{page.number}-{letter}-{field}")
    print(f"{page.number},{letter},{field}", flush=True)
"""


@pytest.mark.parametrize("room", [300_000, 500_000])
def test_on_a_full_disk_nothing_acknowledged_is_lost_and_rating_goes_on_when_there_is_room(
    tmp_path: Path, make_study: MakeStudy, room: int
) -> None:
    study = make_study(num_prompts=20, images_per_set=1)
    file, study_file = tmp_path / "ratings.sqlite", tmp_path / "study.json"
    study_file.write_text(study.model_dump_json())
    with RatingStore.open(file, study) as store:
        store.enrol("A")
    run: list[str | Path] = [sys.executable, "-c", FULL_DISK, study_file, file, str(room)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "most likely the disk is full" in result.stderr
    assert "nothing was written, free space and try again" in result.stderr
    acknowledged = result.stdout.split()
    assert 10 < len(acknowledged) < 440
    with RatingStore.open(file, study) as store:
        stored = [f"{place.page},{place.letter},{place.field}" for place in store.values(0)]
        assert sorted(stored) == sorted(acknowledged)
        store.verify()


def test_what_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, make_study: MakeStudy) -> None:
    study = make_study()
    file = tmp_path / "notes.txt"
    file.write_text("my notes, not a database " * 100)
    with pytest.raises(RefusedError, match=r"notes.txt: is damaged or no database .*choose another file"):
        RatingStore.open(file, study)
    assert file.read_text().startswith("my notes")
    with pytest.raises(RefusedError, match="is a folder; give the name of a file"):
        RatingStore.open(tmp_path, study)
    with pytest.raises(RefusedError, match="its folder does not exist; make it"):
        RatingStore.open(tmp_path / "no" / "r.sqlite", study)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://localhost/x", "must be a file, sqlite:///FILE or postgresql://.* got mysql://"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("://", "is no database URL"),
    ],
)
def test_urls_of_other_databases_are_refused(url: str, message: str, make_study: MakeStudy) -> None:
    with pytest.raises(RefusedError, match=message):
        RatingStore.open(url, make_study())


def test_a_server_that_is_away_is_told_without_its_password(make_study: MakeStudy) -> None:
    with pytest.raises(StoreError, match="nothing was written") as caught:
        RatingStore.open("postgresql://me:geheim@localhost:1/none", make_study(), timeout_s=1)
    assert "geheim" not in str(caught.value)


def test_an_interrupted_action_leaves_no_part_of_it(
    store_url: str, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RatingStore.open(store_url, make_study()) as store:
        number = store.enrol("A").rater.number
        written = database.append_event
        calls: list[object] = []

        def break_at_the_second(*arguments: object, **options: object) -> None:
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            written(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr("medgen_review.store_rows.append_event", break_at_the_second)
        both = [Change("A", REALISM, 1), Change("B", REALISM, 2)]
        with pytest.raises(KeyboardInterrupt):
            store.record_all(number, 0, both, action_id="action-1")
        monkeypatch.undo()
        assert not store.values(number)
        store.record_all(number, 0, both, action_id="action-1")
        assert set(store.values(number)) == {Place(0, "A", REALISM), Place(0, "B", REALISM)}
        assert store.verify() == 4
