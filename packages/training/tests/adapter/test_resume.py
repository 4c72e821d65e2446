import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_training import AdapterTrainConfig, TrainingInterrupted, train
from safetensors.torch import load_file

ADAPTED_TEXT = {"adapter": {"text_encoder": True}}
HLDF = {"hldf": {"every_steps": 2, "num_inference_steps": 2}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cached": ("pixart", {}),
    "live": ("pixart", {"cache": False}),
    "hldf": ("pixart", HLDF),
    "accumulation": ("pixart", {"accumulation": 2}),
    "adapter-dropout": ("pixart", {"adapter": {"dropout": 0.3}}),
    "text-encoder": ("pixart", ADAPTED_TEXT),
    "text-encoder-dropout": ("pixart", {**ADAPTED_TEXT, "text_encoder_dropout": True}),
    "text-encoder-hldf": ("pixart", {**ADAPTED_TEXT, **HLDF}),
    "text-encoder-last-block": (
        "pixart",
        {"adapter": {"text_encoder": True, "text_encoder_blocks": 1}, **HLDF},
    ),
    "sdxl-last-block": ("sdxl", {"adapter": {"text_encoder": True, "text_encoder_blocks": 1}}),
    "prompt-dropout": ("pixart", {"context_dropout": 0.5}),
    "dora": ("pixart", {"adapter": {"dora": "denoiser"}}),
    "sd": ("sd", HLDF),
    "flow": ("flux", {}),
}


def adapter_weights(adapter_dir: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(adapter_dir.glob("*/adapter_model.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same_adapter(first: Path, second: Path) -> None:
    ours, theirs = adapter_weights(first), adapter_weights(second)
    assert ours.keys() == theirs.keys()
    assert ours
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def log_rows(train_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (train_dir / "train_log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]


def stop_at(step: int) -> Callable[[], bool]:
    asked = iter(range(1, 10_000))
    return lambda: next(asked) == step


@pytest.mark.parametrize("name", CASES)
def test_stopping_and_resuming_gives_the_same_adapter_and_log_bit_for_bit(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    name: str,
) -> None:
    family, changes = CASES[name]
    config = new_config(family, **changes)
    straight = train(config, phantoms, texts, tmp_path / "straight", seed=3)
    assert [row["step"] for row in log_rows(tmp_path / "straight")] == [1, 2, 3, 4, 5, 6]
    for stop_step in (1, 3):
        stopped = tmp_path / f"stopped-{stop_step}"
        with pytest.raises(TrainingInterrupted, match=rf"after step {stop_step}; .* resume goes on"):
            train(config, phantoms, texts, stopped, seed=3, should_stop=stop_at(stop_step))
        torch.manual_seed(99)  # whatever the global generator holds must not matter
        resumed = train(config, phantoms, texts, stopped, seed=3, resume=True)
        assert_same_adapter(straight, resumed)
        assert log_rows(stopped) == log_rows(tmp_path / "straight")


def test_log_of_a_stop_between_two_log_steps_has_no_row_more(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    config = new_config(log_every=4, checkpoint_every=3)
    train(config, phantoms, texts, tmp_path / "straight", seed=0)
    with pytest.raises(TrainingInterrupted):
        train(config, phantoms, texts, tmp_path / "stopped", seed=0, should_stop=stop_at(5))
    train(config, phantoms, texts, tmp_path / "stopped", seed=0, resume=True)
    assert [row["step"] for row in log_rows(tmp_path / "stopped")] == [4, 6]
    assert log_rows(tmp_path / "stopped") == log_rows(tmp_path / "straight")


CHILD = """
import json, sys
from pathlib import Path
import torch
from medgen_data import read_image_folder
from medgen_training import AdapterTrainConfig, train

torch.set_num_threads(1)
config_json, dataset_dir, train_dir = sys.argv[1:]
dataset = read_image_folder(Path(dataset_dir))
train(
    AdapterTrainConfig.model_validate_json(config_json),
    dataset,
    {record.record_id: record.text for record in dataset.records},
    Path(train_dir),
    seed=3,
    on_event=lambda event: print(event.stage, event.step, flush=True),
)
"""


@pytest.mark.parametrize("kill", [0, 1])
def test_a_training_killed_at_a_random_moment_goes_on_as_if_nothing_had_happened(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
    kill: int,
) -> None:
    config = new_config(num_steps=14, **ADAPTED_TEXT, **HLDF)
    straight = train(config, phantoms, texts, tmp_path / "straight", seed=3)
    chance = random.Random(kill)
    last_line = f"adapter {chance.randint(2, 12)}\n"
    command = [
        sys.executable,
        "-c",
        CHILD,
        config.model_dump_json(),
        str(phantoms.root),
        str(tmp_path / "killed"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert last_line in iter(child.stdout.readline, "")  # reads on until that step was logged
        time.sleep(chance.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter").exists()
    resumed = train(config, phantoms, texts, tmp_path / "killed", seed=3, resume=True)
    assert_same_adapter(straight, resumed)
    assert log_rows(tmp_path / "killed") == log_rows(tmp_path / "straight")
