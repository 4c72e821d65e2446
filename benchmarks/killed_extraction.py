"""Kill an extraction at random moments until it is done, and count what was computed more than once.

    uv run python benchmarks/killed_extraction.py [--images 10000] [--kills 20]

`medgen-metrics extract` is killed (SIGKILL) again and again. Every image whose feature reached the cache must never
be computed again, and the features must be those of an undisturbed run, bit for bit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

EXTRACTOR = "random:0"
SIDE = 32


def write_images(folder: Path, num_images: int) -> None:
    """Write different small PNG images."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(num_images):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.png", compress_level=1)


def command(images: Path, cache: Path, out: Path) -> list[str]:
    """Return the extraction as a user would call it."""
    options = ["--extractor", EXTRACTOR, "--features-dir", str(cache), "--out", str(out)]
    return [sys.executable, "-m", "medgen_metrics", "extract", str(images), *options]


def cached_rows(cache: Path) -> Counter[str]:
    """Return how often each image stands in the shards of the cache."""
    rows: Counter[str] = Counter()
    for shard in cache.rglob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            rows.update(json.loads(file.metadata()["image_sha256"]))
    return rows


def main() -> int:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root / "images", options.images)
        start = time.monotonic()
        subprocess.run(command(root / "images", root / "calm", root / "calm.safetensors"), check=True)
        calm_s = time.monotonic() - start
        kept, lost = 0, 0
        for _ in range(options.kills):
            process = subprocess.Popen(command(root / "images", root / "killed", root / "killed.safetensors"))
            # Not later than a run lasts, and late enough to have loaded its libraries.
            time.sleep(chance.uniform(0.15, 0.5) * calm_s)
            process.kill()
            process.wait()
            rows = cached_rows(root / "killed")
            lost += rows.total() < kept
            kept = rows.total()
        subprocess.run(command(root / "images", root / "killed", root / "killed.safetensors"), check=True)
        rows = cached_rows(root / "killed")
        doubled = sum(count - 1 for count in rows.values())
        same = all(
            torch.equal(tensor, load_file(root / "killed.safetensors")[name])
            for name, tensor in load_file(root / "calm.safetensors").items()
        )
    print(f"{options.images} images, {options.kills} kills, undisturbed run {calm_s:.1f} s")
    print(
        f"in the cache {len(rows)}, computed twice {doubled}, shrunk after a kill {lost}, same bits: {same}"
    )
    return int(doubled > 0 or lost > 0 or not same or len(rows) != options.images)


if __name__ == "__main__":
    sys.exit(main())
