"""kill -9 at random moments of training and of sampling, then resume: is anything lost, doubled or unreadable?

    uv run python benchmarks/kill_resume.py [--kills 50]

Every attempt is a real process that is really killed. After every kill all files are read; the finished result is
compared, byte for byte, with that of a run nobody disturbed. Children are forked from a parent that has loaded the
libraries but computed nothing, so that the kills fall into the work and not into the imports.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from medgen_cli.plan import plan_images
from medgen_cli.stages.synthesis import SyntheticSetCard, draw_images
from medgen_data import ImageDataset, decode_image, read_image_folder
from medgen_data.phantoms import write_phantom_dataset
from medgen_models import SamplingConfig
from medgen_training import MsdmTrainConfig, train
from medgen_training.checkpoints import load_checkpoint

CONFIG = MsdmTrainConfig.model_validate(
    {
        "preset": "msdm-tiny",
        "autoencoder": {"num_steps": 12, "batch_size": 4, "checkpoint_every": 1, "log_every": 1},
        "denoiser": {"num_steps": 20, "batch_size": 4, "checkpoint_every": 1, "log_every": 1},
    }
)
SAMPLING = SamplingConfig(num_inference_steps=4, batch_size=4)
CARD = SyntheticSetCard(name="kill test", modality="endoscopic", source="benchmark", licence="none")


def in_child(work: Callable[[], object], kill_after_s: float | None) -> bool:
    """Run `work` in a forked process; kill it after a while. Return whether it finished."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        try:
            work()
        except BaseException as error:  # the parent must learn of it
            print(f"child failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a resumed attempt failed; see above")
    return os.WIFEXITED(status)


def contents(folder: Path, *, ignore: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return every file of a folder by name."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        name: file.read_bytes()
        for file in files
        if not (name := file.relative_to(folder).as_posix()).startswith(ignore)
    }


def check_training_files(train_dir: Path) -> None:
    """Read every finished checkpoint; `load_checkpoint` verifies each byte."""
    for complete in train_dir.glob("checkpoints/*/checkpoint-*/complete"):
        state = json.loads((complete.parent / "state.json").read_text(encoding="utf-8"))
        load_checkpoint(complete.parent, state["identity"])


def check_images(dataset_dir: Path) -> None:
    """Decode every image that is there; a temporary file may be left by a kill, half an image may not."""
    for file in dataset_dir.glob("images/*.png"):
        if not file.name.startswith("."):
            decode_image(file)


def survive(
    name: str, work: Callable[[Path], object], check: Callable[[Path], None], root: Path, num_kills: int
) -> Path:
    """Kill `work` at `num_kills` random moments in fresh folders, resuming each to the end."""
    reference = root / f"{name}-reference"
    start = time.monotonic()
    in_child(partial(work, reference), None)
    duration = time.monotonic() - start
    rng = random.Random(name)
    kills = rounds = 0
    while kills < num_kills:
        folder = root / f"{name}-{rounds}"
        rounds += 1
        while True:
            # Several kills a round: moments spread over the whole duration of what is left.
            delay = rng.uniform(0.02, duration * 0.8) if kills < num_kills else None
            finished = in_child(partial(work, folder), delay)
            kills += delay is not None and not finished
            check(folder)
            if finished:
                break
        ours = contents(folder, ignore=("tensorboard", "train_log"))
        theirs = contents(reference, ignore=("tensorboard", "train_log"))
        ours, theirs = (
            {n: c for n, c in files.items() if "/." not in f"/{n}" and "lock" not in n}
            for files in (ours, theirs)
        )
        lost, extra = theirs.keys() - ours.keys(), ours.keys() - theirs.keys()
        changed = [n for n in theirs.keys() & ours.keys() if ours[n] != theirs[n]]
        assert not lost, f"lost: {sorted(lost)[:5]}"
        assert not extra, f"extra: {sorted(extra)[:5]}"
        assert not changed, f"changed: {changed[:5]}"
    print(
        f"{name}: {kills} kills in {rounds} runs; 0 lost, 0 doubled, 0 unreadable; results equal bit for bit"
    )
    return reference


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    num_kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_phantom_dataset(root / "set", num_images=32, size=64)
        dataset: ImageDataset = read_image_folder(root / "set")
        texts = {record.record_id: record.text for record in dataset.records}
        plan = plan_images(dataset.records, texts, seed=0, num_images=24)

        def training(train_dir: Path) -> None:
            train(CONFIG, dataset, texts, train_dir, seed=0, resume=True)
            rows = [json.loads(line) for line in (train_dir / "train_log.jsonl").read_text().splitlines()]
            steps = [(row["stage"], row["step"]) for row in rows]
            assert len(steps) == len(set(steps)) == 32, f"log rows lost or doubled: {len(steps)}"

        reference = survive("training", training, check_training_files, root, num_kills)

        def sampling(dataset_dir: Path) -> None:
            draw_images(reference / "model", plan, SAMPLING, dataset_dir, card=CARD, device="cpu")

        synthetic = survive("sampling", sampling, check_images, root, num_kills)
        assert len(read_image_folder(synthetic).records) == len(plan)


if __name__ == "__main__":
    main()
