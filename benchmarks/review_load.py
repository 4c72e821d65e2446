"""Kill the rating studio while twenty raters work, and count what was lost or doubled; then time its largest page.

    uv run python benchmarks/review_load.py [--raters 20] [--ratings 200] [--kills 10]

Every rater sends ratings over HTTP, one after the other, and sends one again that got no answer, as the page does.
Meanwhile the server process is killed (SIGKILL) at even distances and started again. Every acknowledged rating must
stand in the database once, with one step in the audit trail. The time to first paint of a page of 40 images is
measured in chromium, where there is one.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from medgen_review.demo import write_demo_study
from medgen_review.schedule import Place, places_on, value_range
from medgen_review.server.pages import slug_of
from medgen_review.store import RatingStore
from medgen_review.study import Study

CHROMIUM = Path("/usr/bin/chromium")
SERVE = """
import sys
from pathlib import Path
from medgen_review.server.serving import serve
serve(Path(sys.argv[1]), port=int(sys.argv[2]), on_ready=lambda address: print(address, flush=True))
"""


class Server:
    """The server as a process that is killed and comes back at the same address."""

    def __init__(self, study_file: Path) -> None:
        self._study_file = study_file
        self.address = ""
        self.start()

    def start(self) -> None:
        """Start, and wait for the first connection to be possible."""
        port = self.address.rpartition(":")[2] or "0"
        command: list[str] = [sys.executable, "-c", SERVE, str(self._study_file), port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def kill(self) -> None:
        """End without a word."""
        self._process.kill()
        self._process.communicate()


class Rater:
    """One rater, and what the server acknowledged."""

    def __init__(self, server: Server, code: str, answers: list[tuple[Place, str, int]]) -> None:
        self._server = server
        self._code = code
        self._answers = answers
        self.acknowledged: dict[Place, int] = {}
        self.num_acknowledged = 0
        self.num_sent = 0
        self.seconds: list[float] = []

    def work(self, progress: threading.Semaphore) -> None:
        """Give all ratings."""
        with httpx2.Client(base_url=self._server.address, timeout=30) as client:
            client.headers["Origin"] = self._server.address
            csrf = ""
            for number, (place, slug, value) in enumerate(self._answers):
                seen = 0 if place not in self.acknowledged else 1
                form = {
                    "action": f"rating-{number:06d}",
                    "slug": slug,
                    "value": str(value),
                    "seen": str(seen),
                }
                while True:
                    try:
                        csrf = csrf or self._log_in(client)
                        self.num_sent += 1
                        start = time.perf_counter()
                        answer = client.post(f"/page/{place.page + 1}/answer", data={**form, "csrf": csrf})
                    except httpx2.HTTPError:
                        time.sleep(0.1)
                        continue
                    if answer.status_code == 503:
                        continue
                    answer.raise_for_status()
                    break
                self.seconds.append(time.perf_counter() - start)
                self.acknowledged[place] = value
                self.num_acknowledged += 1
                progress.release()

    def _log_in(self, client: httpx2.Client) -> str:
        client.post("/login", data={"code": self._code})
        found = re.search(r'data-csrf="([0-9a-f]+)"', client.get("/briefing").text)
        assert found is not None
        return found[1]


def answers_of(
    study: Study, store: RatingStore, rater: int, num_ratings: int
) -> list[tuple[Place, str, int]]:
    """Return so many ratings of a rater; after the last place the first ones are changed once."""
    asked = [(page, place) for page in store.pages(rater) for place in places_on(study, page)]
    answers = []
    for number in range(num_ratings):
        page, place = asked[number % len(asked)]
        lowest, highest = value_range(study, page, place.field)
        value = lowest + (rater + number + number // len(asked)) % (highest - lowest + 1)
        answers.append((place, slug_of(study, place), value))
    return answers


def load(study: Study, folder: Path, options: argparse.Namespace) -> bool:
    """Let the raters work under kills; print and judge what is left."""
    with RatingStore.open(folder / "ratings.sqlite", study) as store:
        codes = [store.enrol(f"rater {number}").token for number in range(options.raters)]
        plans = [answers_of(study, store, number, options.ratings) for number in range(options.raters)]
    server = Server(folder / "study.json")
    raters = [Rater(server, code, plan) for code, plan in zip(codes, plans, strict=True)]
    progress = threading.Semaphore(0)
    start = time.perf_counter()
    with ThreadPoolExecutor(options.raters) as pool:
        working = [pool.submit(rater.work, progress) for rater in raters]
        for _ in range(options.kills):
            for _ in range(options.raters * options.ratings // (options.kills + 1)):
                progress.acquire()
            server.kill()
            server.start()
        for each in working:
            each.result()
    seconds = time.perf_counter() - start
    server.kill()

    lost, num_acknowledged = 0, sum(rater.num_acknowledged for rater in raters)
    with RatingStore.open(folder / "ratings.sqlite", study) as store:
        store.verify()
        for number, rater in enumerate(raters):
            values = store.values(number)
            lost += sum(
                place not in values or values[place].value != v for place, v in rater.acknowledged.items()
            )
        steps = Counter((event.rater, event.action) for event in store.trail() if event.kind == "value")
    doubled = sum(times - 1 for times in steps.values())
    attempts = sum(rater.num_sent for rater in raters)
    waits = sorted(wait for rater in raters for wait in rater.seconds)
    print(f"{options.raters} raters x {options.ratings} ratings, {options.kills} kill -9, {seconds:.0f} s")
    print(f"acknowledged {num_acknowledged}, attempts {attempts}, in the trail {len(steps)}")
    print(f"acknowledged and lost: {lost}; doubled: {doubled}")
    print(
        f"answer after {1000 * statistics.median(waits):.0f} ms (median), "
        f"{1000 * waits[int(0.99 * len(waits))]:.0f} ms (99%)"
    )
    return not lost and not doubled and len(steps) == num_acknowledged == options.raters * options.ratings


def first_paint(study: Study, folder: Path) -> None:
    """Print how soon a page of 40 images is there on loopback."""
    if not CHROMIUM.exists():
        print(f"first paint: not measured, {CHROMIUM} is not installed")
        return
    from playwright.sync_api import sync_playwright

    with RatingStore.open(folder / "ratings.sqlite", study) as store:
        code = store.enrol("eyes").token
    server = Server(folder / "study.json")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.goto(server.address)
        page.fill("#code", code)
        page.locator("button[type=submit]").click()
        paints, loads = [], []
        for number in range(1, 7):
            page.goto(f"{server.address}/page/{number}", wait_until="load")
            paints.append(
                page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart"))
        browser.close()
    server.kill()
    print(
        f"page of 40 images of {study.design.image_side} px: first paint after {statistics.median(paints):.0f} ms "
        f"(worst {max(paints):.0f}), all images after {statistics.median(loads):.0f} ms (worst {max(loads):.0f})"
    )


def main() -> int:
    """Measure and print; 0 if nothing was lost or doubled."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--ratings", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = write_demo_study(folder)
        whole = load(study, folder, options)
        first_paint(study, folder)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
