"""What the review commands do: open a study and its ratings, and say how far the raters are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen_review.schedule import places_on
from medgen_review.score_files import ItemScore, read_score_table, read_scores
from medgen_review.store import RatingStore
from medgen_review.study import Study, read_study

from medgen_cli.errors import UsageError

DATABASE_NAME = "ratings.sqlite"


@dataclass(frozen=True)
class RaterState:
    """How far one rater is."""

    number: int
    name: str
    state: str  # not begun, at work, finished, withdrawn
    num_given: int
    num_asked: int


def named_paths(words: Sequence[str], *, flag: str) -> dict[str, Path]:
    """Read options of the form NAME=PATH.

    Raises:
        UsageError: If one has another form, or a name comes twice.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UsageError(f"{flag} must be NAME=PATH, got {word!r}")
        if name in found:
            raise UsageError(f"{flag}: {name!r} is given twice; each model needs a name of its own")
        found[name] = Path(path)
    return found


def database_of(study_file: Path, database: str | None) -> str | Path:
    """Return where the ratings of a study are: what was asked for, else `ratings.sqlite` beside it."""
    return database or study_file.absolute().parent / DATABASE_NAME


def open_store(study_file: Path, database: str | None, *, must_exist: bool) -> tuple[Study, RatingStore]:
    """Open the ratings of a study.

    Raises:
        UsageError: If there must be ratings and the file beside the study does not exist.
        StudyError: If the study is not as it was made.
        StoreError: If the database cannot be used.
    """
    study = read_study(study_file)
    place = database_of(study_file, database)
    if must_exist and isinstance(place, Path) and not place.is_file():
        raise UsageError(
            f"{place}: there are no ratings yet; enrol raters (`medgen review raters {study_file} --add NAME`) or "
            "say where they are with --database"
        )
    return study, RatingStore.open(place, study)


def rater_states(study: Study, store: RatingStore) -> list[RaterState]:
    """Return how far every rater is."""
    states = []
    for rater in store.raters():
        asked = sum(len(places_on(study, page)) for page in store.pages(rater.number))
        given = sum(value.value is not None for value in store.values(rater.number).values())
        if rater.revoked_at is not None:
            state = "withdrawn"
        elif rater.finished_at is not None:
            state = "finished"
        else:
            state = "at work" if given else "not begun"
        states.append(RaterState(rater.number, rater.name, state, given, asked))
    return states


def number_of(store: RatingStore, name: str) -> int:
    """Return the number of a rater.

    Raises:
        UsageError: If nobody has that name.
    """
    raters = {rater.name: rater.number for rater in store.raters()}
    if name not in raters:
        raise UsageError(f"no rater is called {name!r}; enrolled are {', '.join(raters) or 'none'}")
    return raters[name]


def given_scores(scores: Sequence[str], table: Path | None) -> list[ItemScore]:
    """Read the automatic scores given on the command line."""
    found: list[ItemScore] = []
    for item, file in named_paths(scores, flag="--scores").items():
        found += read_scores(item, file)
    if table is not None:
        found += read_score_table(table)
    return found
