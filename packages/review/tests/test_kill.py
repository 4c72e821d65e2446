"""Kill -9 while ratings are written: what was acknowledged is there, once."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_review.schedule import Place, places_on
from medgen_review.store import RatingStore
from medgen_review.study import Study

MakeStudy = Callable[..., Study]

# Four threads, each with raters of its own, write value after value and say so only after the store did.
WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from medgen_review.schedule import places_on
from medgen_review.store import RatingStore
from medgen_review.study import read_study

study = read_study(Path(sys.argv[1]))
store = RatingStore.open(sys.argv[2], study)

def rate(number):
    for page in store.pages(number):
        for index, (_, letter, field) in enumerate(places_on(study, page)):
            action = f"action-{number}-{page.number}-{letter}-{field}"
            value = 1 + (number + page.number + index) % 4
            answer = store.record(number, page.number, letter, field, value, action_id=action)
            assert answer.current == value and answer.version == 1 and not answer.conflict, answer
            sys.stdout.write(f"{number},{page.number},{letter},{field},{value}\\n")
            sys.stdout.flush()

with ThreadPoolExecutor(4) as pool:
    list(pool.map(rate, range(4)))
"""


@pytest.mark.parametrize("num_kills", [5])
def test_no_acknowledged_rating_is_lost_or_doubled_by_kills(
    store_url: str, make_study: MakeStudy, tmp_path: Path, num_kills: int
) -> None:
    study = make_study(num_prompts=6, images_per_set=1)
    study_file = tmp_path / "study.json"
    study_file.write_text(study.model_dump_json())
    with RatingStore.open(store_url, study) as store:
        for number in range(4):
            store.enrol(f"rater {number}")
    generator = np.random.default_rng(0)
    acknowledged: set[str] = set()
    log = tmp_path / "acknowledged.csv"
    for kill in range(num_kills + 1):
        with log.open("w") as stream:
            writer = subprocess.Popen([sys.executable, "-c", WRITER, study_file, store_url], stdout=stream)
            if kill < num_kills:
                wait_for_lines(log, int(generator.integers(5, 40)), writer)
                writer.kill()
            assert (writer.wait(60) == 0) == (kill == num_kills)
        # The very last line may be half written; what was acknowledged is a whole line.
        lines = log.read_text().split("\n")
        acknowledged |= set(lines[:-1])
        with RatingStore.open(store_url, study) as store:
            stored = {
                f"{number},{place.page},{place.letter},{place.field},{value.value}"
                for number in range(4)
                for place, value in store.values(number).items()
            }
            assert acknowledged <= stored
            store.verify()
            given = [
                (event.rater, event.content["page"], event.content["letter"], event.content["field"])
                for event in store.trail()
                if event.kind == "value"
            ]
            assert len(given) == len(set(given)) == len(stored)
    everything = {(number, place) for number in range(4) for place in all_places(study, number)}
    assert len(stored) == len(everything) == 4 * 132


def all_places(study: Study, number: int) -> list[Place]:
    from medgen_review.schedule import pages_for

    return [place for page in pages_for(study, number) for place in places_on(study, page)]


def wait_for_lines(log: Path, num_lines: int, writer: subprocess.Popen[bytes]) -> None:
    before = log.read_text().count("\n")
    stop = time.monotonic() + 60
    while log.read_text().count("\n") < before + num_lines and time.monotonic() < stop:
        assert writer.poll() is None, "the writer ended before it was killed"
        time.sleep(0.005)
