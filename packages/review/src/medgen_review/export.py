"""Ratings as files: tidy rows for statistics, ranks as medgen-metrics reads them, and the audit trail."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen_review import atomic
from medgen_review.rating_files import RatingRow
from medgen_review.schedule import REFERENCES, Page, Place, places_on
from medgen_review.store import RatingStore, Value
from medgen_review.study import RANK, Study, StudyError


@dataclass(frozen=True)
class Exported:
    """The files of an export, and how many values they hold of how many."""

    ratings_jsonl: Path
    ratings_csv: Path
    ranks_csv: Path
    audit_jsonl: Path
    num_values: int
    num_expected: int
    unfinished: tuple[str, ...]  # raters who have not finished


def export_ratings(study: Study, store: RatingStore, folder: Path) -> Exported:
    """Write what was rated so far; the audit trail is checked first.

    `ranks.csv` has the columns prompt, item, rank, rater: first showings only.

    Raises:
        TrailError: If the database was tampered with or damaged.
        StudyError: If the store is of another study, or a file cannot be written.
    """
    if store.study.digest != study.digest:
        raise StudyError("the ratings are of another study; give the study file they were collected for")
    store.verify()
    rows = rating_rows(study, store)
    exported = Exported(
        folder / "ratings.jsonl",
        folder / "ratings.csv",
        folder / "ranks.csv",
        folder / "audit.jsonl",
        len(rows),
        sum(len(places_on(study, page)) for rater in store.raters() for page in store.pages(rater.number)),
        tuple(rater.name for rater in store.raters() if rater.finished_at is None),
    )
    atomic.write_text(exported.ratings_jsonl, _json_lines(row.model_dump(mode="json") for row in rows))
    columns = list(RatingRow.model_fields)
    atomic.write_text(exported.ratings_csv, _csv(columns, [row.model_dump(mode="json") for row in rows]))
    ranks = [
        {"prompt": row.prompt_id, "item": row.model, "rank": row.value, "rater": row.rater}
        for row in rows
        if row.kind == RANK and row.repeat == 0
    ]
    atomic.write_text(exported.ranks_csv, _csv(["prompt", "item", "rank", "rater"], ranks))
    atomic.write_text(
        exported.audit_jsonl, _json_lines(event.model_dump(mode="json") for event in store.trail())
    )
    return exported


def rating_rows(study: Study, store: RatingStore) -> list[RatingRow]:
    """Return every value that stands as a row: by rater, then page, then as the page asks for them."""
    rows: list[RatingRow] = []
    for rater in store.raters():
        given = {
            place: value for place, value in store.values(rater.number).items() if value.value is not None
        }
        rows += [
            _row(study, rater.name, page, place, given[place])
            for page in store.pages(rater.number)
            for place in places_on(study, page)
            if place in given
        ]
    return rows


def _row(study: Study, rater: str, page: Page, place: Place, given: Value) -> RatingRow:
    kind = next(prompt.kind for prompt in study.prompts if prompt.prompt_id == page.prompt_id)
    what = "attention" if page.attention else "rank" if place.field == RANK else "rating"
    fields: Mapping[str, object] = {
        "study": study.digest,
        "rater": rater,
        "page": page.number,
        "prompt_id": page.prompt_id,
        "prompt_kind": kind,
        "model": page.model_of(place.letter),
        "letter": place.letter,
        "position": -1 if place.letter == REFERENCES else page.letters.index(place.letter),
        "kind": what,
        "aspect": "" if place.field == RANK else place.field,
        "value": given.value,
        "expected": page.attention.value if page.attention else None,
        "highest": study.highest,
        "repeat": 1 if page.kind == "repeat" else 0,
        "at": given.at,
    }
    return RatingRow.model_validate(fields)


def _json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _harmless(value: object) -> object:
    # A table program would take such a name for a formula and run it.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
