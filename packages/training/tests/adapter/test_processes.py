"""Two processes on one machine (gloo) against one process with the batch of both."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_training import AdapterTrainConfig, train
from safetensors.torch import load_file

CHILD = """
import json, sys
from pathlib import Path
import torch
from medgen_data import read_image_folder
from medgen_training import AdapterTrainConfig, TrainingInterrupted, train

torch.set_num_threads(1)
configs, dataset_dir, runs_dir = sys.argv[1:]
dataset = read_image_folder(Path(dataset_dir))
texts = {record.record_id: record.text for record in dataset.records}
for name, settings in json.loads(configs).items():
    config = AdapterTrainConfig.model_validate(settings)
    run = Path(runs_dir) / name
    if name == "stopped":  # only one of the two is asked to stop
        asked = iter(range(1, 100))
        stop = lambda: torch.distributed.get_rank() == 1 and next(asked) >= 2
        try:
            train(config, dataset, texts, run, seed=3, should_stop=stop)
        except TrainingInterrupted as stopped:
            assert stopped.step == 2, stopped.step
        else:
            raise AssertionError("did not stop")
    resume = name == "stopped"
    train(config, dataset, texts, run, seed=3, resume=resume, validation_set=dataset)
torch.distributed.destroy_process_group()
"""
HLDF = {"every_steps": 2, "num_inference_steps": 2, "weight": 1.0}
LENGTH = {"num_steps": 4, "log_every": 1, "learning_rate": 1e-3}  # 1e-5 is a four-hundredth of the way
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "hldf": {"hldf": HLDF},
    "text": {"hldf": HLDF, "adapter": {"text_encoder": True}, "accumulation": 2},
    "selected": {"selection": "validation-loss", "validate_every": 1},
    "stopped": {},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_on_two(configs: dict[str, AdapterTrainConfig], dataset_dir: Path, runs_dir: Path) -> None:
    settings = json.dumps({name: config.model_dump(mode="json") for name, config in configs.items()})
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, settings, str(dataset_dir), str(runs_dir)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for child in children:
            _, errors = child.communicate(timeout=240)
            assert child.returncode == 0, errors[-3000:]
    finally:
        for child in children:
            child.kill()


@pytest.fixture(scope="module")
def of_two(bases: dict[str, Path], phantoms: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every case on two processes with half the batch each, in one launch."""
    runs_dir = tmp_path_factory.mktemp("of-two")
    configs = {
        name: AdapterTrainConfig.model_validate(
            {"family": "pixart", "base": str(bases["pixart"]), **LENGTH, "batch_size": 1} | changes
        )
        for name, changes in CHANGES.items()
    }
    run_on_two(configs, phantoms.root, runs_dir)
    return runs_dir


@pytest.mark.parametrize("name", CHANGES)
def test_two_processes_train_the_adapter_of_one_with_the_doubled_batch(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    of_two: Path,
    tmp_path: Path,
    name: str,
) -> None:
    config = new_config(**LENGTH, batch_size=2, **CHANGES[name])
    alone = train(config, phantoms, texts, tmp_path / "one", seed=3, validation_set=phantoms)
    for file in sorted(alone.glob("*/adapter_model.safetensors")):
        ours = load_file(file)
        theirs = load_file(of_two / name / "adapter" / file.parent.name / file.name)
        assert ours.keys() == theirs.keys()
        for tensor_name, tensor in ours.items():
            torch.testing.assert_close(theirs[tensor_name], tensor, rtol=1e-5, atol=1e-5)
        assert any(tensor.any() for key, tensor in ours.items() if "lora_B" in key)  # it left its start
    logs = [
        [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
        for run in (tmp_path / "one", of_two / name)
    ]
    assert [row["step"] for row in logs[1]] == [1, 2, 3, 4]
    for mine, other in zip(*logs, strict=True):
        figures = mine.keys() - {"stage", "images_per_s"}
        assert other.keys() - {"stage", "images_per_s"} == figures
        assert {f: other[f] for f in figures} == pytest.approx({f: mine[f] for f in figures}, rel=1e-4)
