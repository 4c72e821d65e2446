"""Kill a captioning run at random moments until it is done, and count what a server was asked twice.

    uv run python benchmarks/kill_captioning.py [--kills 100] [--images 1500]

`medgen caption` asks a server on loopback, which keeps a log of what it answered, and is killed (SIGKILL) again and
again. Lost: images without a caption at the end. Duplicate: with more than one. Paid twice: answers that had been
stored and were asked for again. A request in flight at a kill may be answered twice; the ledger names these, and no
other may be.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.tiny.server import tiny_server
from medgen_data.captions import read_captions
from medgen_data.phantoms import write_phantom_dataset

CONCURRENCY = 4


def main() -> int:
    """Kill, resume, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--images", type=int, default=1500)
    options = parser.parse_args()
    chance = random.Random(0)
    os.environ["OMP_NUM_THREADS"] = "1"
    with (
        tempfile.TemporaryDirectory() as name,
        tiny_server(delay_s=0.02, heed_keys=True, keep_bodies=True) as server,
    ):
        folder = Path(name)
        dataset = write_phantom_dataset(folder / "set", num_images=options.images, size=32)
        recipe, out = folder / "recipe.yaml", folder / "captions.jsonl"
        section = {"base_url": server.base_url, "model": "tiny", "concurrency": CONCURRENCY}
        recipe.write_text(json.dumps({"caption": {"method": "server", "server": section}}))
        command = [sys.executable, "-m", "medgen_cli.main", "caption", str(dataset.root)]
        command += ["--config", str(recipe), "--out", str(out)]
        in_flight: Counter[str] = Counter()
        again, killed = 0, 0
        while killed < options.kills:
            stored = stored_keys(folder)
            num_before = len(server.headers)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # The first request may come any time after the libraries are loaded: wait for it now and then only.
            if chance.random() < 0.8:
                while len(server.headers) == num_before and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.25))
            else:
                time.sleep(chance.uniform(0, 1.0))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            killed += 1
            time.sleep(0.05)  # the server ends what it was answering
            asked = [headers["idempotency-key"] for headers in server.headers[num_before:]]
            again += sum(key in stored for key in asked)
            if (folder / "caption-cache.sqlite").exists():
                with CaptionCache(folder / "caption-cache.sqlite") as cache:
                    in_flight = Counter(cache.open_requests())
        num_before, stored = len(server.headers), stored_keys(folder)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        again += sum(headers["idempotency-key"] in stored for headers in server.headers[num_before:])
        rows = read_captions(out)
        lines = len(out.read_text(encoding="utf-8").splitlines())
        repeated = sum(count - 1 for count in server.served.values())
        charged = sum(server.charged.values()) - len(dataset.records)
    lost, duplicate = len(dataset.records) - len(rows), lines - len(rows)
    print(
        f"{options.images} images, {killed} kills, {sum(server.served.values())} answers: lost {lost}, duplicate "
        f"{duplicate}, paid twice {again}; answered twice because in flight at a kill {repeated}, of "
        f"{sum(in_flight.values())} that the ledger says were; charged twice by a server that heeds "
        f"Idempotency-Key: {charged}"
    )
    return int(lost > 0 or duplicate > 0 or again > 0 or charged > 0 or repeated > sum(in_flight.values()))


def stored_keys(folder: Path) -> set[str]:
    """Return the keys of the answers that are in the cache."""
    file = folder / "caption-cache.sqlite"
    if not file.exists():
        return set()
    with CaptionCache(file) as cache:
        return cache.keys()


if __name__ == "__main__":
    sys.exit(main())
