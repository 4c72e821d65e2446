"""What only PostgreSQL can do to a study."""

from collections.abc import Callable

import psycopg
import pytest
from medgen_review.schedule import Place
from medgen_review.store import RatingStore
from medgen_review.study import Study

MakeStudy = Callable[..., Study]
REALISM = "clinical_realism"


@pytest.mark.parametrize("prefix", ["postgresql://", "postgres://", "postgresql+psycopg://"])
def test_every_usual_form_of_the_url_is_understood(
    new_postgresql: str, make_study: MakeStudy, prefix: str
) -> None:
    with RatingStore.open(new_postgresql.replace("postgresql://", prefix), make_study()) as store:
        assert store.verify() == 1


def test_the_trail_cannot_be_emptied_at_once(new_postgresql: str, make_study: MakeStudy) -> None:
    with RatingStore.open(new_postgresql, make_study()) as store:
        store.enrol("A")
        with (
            psycopg.connect(new_postgresql) as other,
            pytest.raises(psycopg.errors.RaiseException, match="append-only"),
        ):
            other.execute("TRUNCATE review_events")
        assert store.verify() == 2


def test_rating_goes_on_after_the_server_closed_all_connections(
    new_postgresql: str, make_study: MakeStudy
) -> None:
    with RatingStore.open(new_postgresql, make_study()) as store:
        number = store.enrol("A").rater.number
        with psycopg.connect(new_postgresql) as other:
            query = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            row = other.execute(query).fetchone()
        assert row is not None
        assert row[0] >= 1
        assert store.record(number, 0, "A", REALISM, 5, action_id="action-1").version == 1
        assert store.values(number)[Place(0, "A", REALISM)].value == 5
        store.verify()


def test_commits_are_flushed_to_the_disk(new_postgresql: str, make_study: MakeStudy) -> None:
    with RatingStore.open(new_postgresql, make_study()) as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
