"""Two processes on one machine (gloo) that share a base, against two processes with a whole base each."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_models.adapters import AdapterConfig, AdapterError, adapter_parameters, add_adapters
from medgen_models.adapters.folders import AdapterFacts
from medgen_models.base_models import load_pretrained
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_prior
from medgen_training import AdapterTrainConfig, train
from medgen_training.adapter.sharding import gathered_together
from safetensors.torch import load_file

CHILD = """
import json, sys
from pathlib import Path
import torch
from medgen_data import read_image_folder
from medgen_models.adapters import adapter_parameters
from medgen_models.base_models import load_pretrained
from medgen_training import AdapterTrainConfig, TrainingInterrupted, train
from medgen_training.adapter.run import base_facts, prepare_model
from medgen_training.adapter.sharding import base_mesh, shard, weight_bytes

torch.set_num_threads(1)
configs, dataset_dir, runs_dir = sys.argv[1:]
dataset = read_image_folder(Path(dataset_dir))
texts = {record.record_id: record.text for record in dataset.records}
print("begun", flush=True)


def told(event):
    print(event.stage, event.step, flush=True)


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
    resume = name in ("stopped", "killed")
    train(config, dataset, texts, run, seed=3, resume=resume, validation_set=dataset, on_event=told)

rank = torch.distributed.get_rank()
for family in ("pixart", "sd"):
    config = AdapterTrainConfig.model_validate(json.loads(configs)[f"{family}-shared"])
    model = load_pretrained(base_facts(config))
    prepare_model(model, config, seed=0)
    adapter_bytes = sum(4 * p.numel() for p in adapter_parameters(model.denoiser))
    shard(model.denoiser, base_mesh(2, torch.device("cpu")))
    whole, kept = weight_bytes(model.denoiser)
    figures = {"whole": whole - adapter_bytes, "kept": kept - adapter_bytes}
    (Path(runs_dir) / f"{family}-bytes-{rank}.json").write_text(json.dumps(figures))
torch.distributed.destroy_process_group()
"""
HLDF = {"every_steps": 2, "num_inference_steps": 2, "weight": 1.0}
# Where a gradient is next to nothing, Adam's step is its sign: with its usual eps that would compare roundings.
LENGTH = {"num_steps": 4, "batch_size": 1, "log_every": 1, "learning_rate": 1e-3, "adam_eps": 1e-5}
LAST_BLOCK = {"text_encoder": True, "text_encoder_blocks": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pixart": ("pixart", {"gradient_checkpointing": False, "accumulation": 2}),
    "pixart-hldf": ("pixart", {"gradient_checkpointing": False, "hldf": HLDF}),
    "pixart-text": (
        "pixart",
        {"gradient_checkpointing": True, "hldf": HLDF, "adapter": {"text_encoder": True}, "accumulation": 2},
    ),
    "pixart-last-block": ("pixart", {"hldf": HLDF, "adapter": LAST_BLOCK | {"dora": "both"}}),
    "live": ("pixart", {"cache": False}),
    "selected": ("pixart", {"selection": "validation-loss", "validate_every": 2, "adapter": LAST_BLOCK}),
    "sd": ("sd", {"gradient_checkpointing": False, "accumulation": 2}),
    "sd-text": ("sd", {"gradient_checkpointing": True, "hldf": HLDF, "adapter": {"text_encoder": True}}),
    "sdxl-last-block": ("sdxl", {"adapter": LAST_BLOCK}),
    "flux": ("flux", {"hldf": HLDF}),
    "prior": ("kandinsky22-prior", {}),
}
LONG = {"num_steps": 8, "checkpoint_every": 2, "adapter": {"text_encoder": True}, "hldf": HLDF}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_two(
    configs: dict[str, dict[str, Any]], dataset_dir: Path, runs_dir: Path
) -> list[subprocess.Popen[str]]:
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(configs), str(dataset_dir), str(runs_dir)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE if rank == 0 else subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def runs_dir(
    bases: dict[str, Path], phantoms: ImageDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train every case on two processes: with a base of their own each, and with a shared one."""
    folder = tmp_path_factory.mktemp("shared-base")
    prior = write_tiny_kandinsky22_prior(folder / "prior-base")
    configs: dict[str, dict[str, Any]] = {}
    for name, (family, changes) in CASES.items():
        base = str(bases.get(family, prior))
        for kind in ("whole", "shared"):
            settings = {"family": family, "base": base, **LENGTH, "shard_base": kind == "shared"} | changes
            configs[f"{name}-{kind}"] = settings
    for name in ("straight", "stopped", "killed"):
        configs[name] = configs["pixart-text-shared"] | LONG
    children = start_two({"killed": configs["killed"]}, phantoms.root, folder)
    try:
        lines = children[0].stdout
        assert lines is not None
        assert "adapter 5\n" in iter(lines.readline, "")
        for child in children:
            child.send_signal(signal.SIGKILL)
        for child in children:
            child.communicate()
            assert child.returncode == -signal.SIGKILL
        assert (folder / "killed" / "checkpoints").is_dir()
        assert not (folder / "killed" / "adapter").exists()
        children = start_two(configs, phantoms.root, folder)
        _, errors = children[0].communicate(timeout=240)
        assert children[0].returncode == 0, errors[-3000:]
        assert children[1].wait(timeout=30) == 0
    finally:
        for child in children:
            child.kill()
    return folder


def adapter_weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted((run / "adapter").glob("*/adapter_model.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_shared_base_trains_the_adapter_of_a_whole_one(runs_dir: Path, name: str) -> None:
    whole, shared = (adapter_weights(runs_dir / f"{name}-{kind}") for kind in ("whole", "shared"))
    assert whole.keys() == shared.keys()
    for tensor_name, tensor in whole.items():
        torch.testing.assert_close(shared[tensor_name], tensor, rtol=0, atol=1e-6)
    # A thousand times that is how far it went.
    assert max(float(t.abs().max()) for key, t in whole.items() if "lora_B" in key) > 1e-3


@pytest.mark.parametrize("name", ["stopped", "killed"])
def test_a_shared_base_that_was_stopped_or_killed_goes_on_bit_for_bit(runs_dir: Path, name: str) -> None:
    straight, resumed = adapter_weights(runs_dir / "straight"), adapter_weights(runs_dir / name)
    assert straight.keys() == resumed.keys()
    assert straight
    assert [key for key in straight if not torch.equal(straight[key], resumed[key])] == []


@pytest.mark.parametrize("family", ["pixart", "sd"])
def test_each_process_keeps_about_half_of_the_base(runs_dir: Path, family: str) -> None:
    figures = [json.loads((runs_dir / f"{family}-bytes-{rank}.json").read_text()) for rank in range(2)]
    whole = figures[0]["whole"]
    assert sum(each["kept"] for each in figures) >= whole == figures[1]["whole"]
    for each in figures:
        assert 0.45 < each["kept"] / whole < 0.55


def adapted_denoiser(family: Any, base: Path) -> Any:
    model = load_pretrained(AdapterFacts(family=family, base_model=str(base)))
    for module in model.components().values():
        module.requires_grad_(False)
    add_adapters(model.components(), AdapterConfig(rank=2), family=family, seed=0)
    return model.denoiser


def test_a_transformer_is_gathered_by_its_blocks(bases: dict[str, Path]) -> None:
    denoiser = adapted_denoiser("pixart", bases["pixart"])
    assert gathered_together(denoiser) == list(denoiser.transformer_blocks)


def test_a_unet_is_gathered_by_what_its_blocks_are_made_of_inner_ones_first(bases: dict[str, Path]) -> None:
    denoiser = adapted_denoiser("sd", bases["sd"])
    units = gathered_together(denoiser)
    assert len({id(unit) for unit in units}) == len(units)
    for index, unit in enumerate(units):
        inside = {id(module) for module in unit.modules()}
        assert not any(id(later) in inside for later in units[index + 1 :])
    kinds = {type(unit).__name__ for unit in units}
    assert {"ResnetBlock2D", "BasicTransformerBlock", "Transformer2DModel"} <= kinds
    frozen = {id(weight) for weight in denoiser.parameters()}
    frozen -= {id(weight) for weight in adapter_parameters(denoiser)}
    in_units = {id(weight) for unit in units for weight in unit.parameters()} & frozen
    assert len(in_units) > 0.9 * len(frozen)


def test_one_process_that_is_to_share_its_base_is_refused(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    with pytest.raises(
        AdapterError, match=r"shard_base is true, but this training is one process.*accelerate"
    ):
        train(new_config(shard_base=True), phantoms, texts, tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()
