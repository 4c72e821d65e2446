"""`medgen train` on two processes of this machine, as torchrun and `accelerate launch` start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from medgen_cli.run_folder import lock_folder

RECIPE = """
train:
  family: pixart
  base: {base}
  shard_base: true
  num_steps: 2
"""


def medgen_twice(*arguments: object) -> list[tuple[int, str, str]]:
    """Return exit code, stdout and stderr of both processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "medgen_cli.main", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        ended = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *said) for child, said in zip(children, ended, strict=True)]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    from medgen_data.phantoms import write_phantom_dataset
    from medgen_models.tiny.pixart import write_tiny_pixart

    folder = tmp_path_factory.mktemp("launched")
    data = write_phantom_dataset(folder / "phantoms", num_images=4).root
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=write_tiny_pixart(folder / "base")), encoding="utf-8")
    return ["train", recipe, "--data", data, "--device", "cpu"]


def test_processes_that_were_launched_together_train_one_adapter_and_one_of_them_says_so(
    arguments: list[object], tmp_path: Path
) -> None:
    first, second = medgen_twice(*arguments, "--out", tmp_path / "out")
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1] == f"adapter in {tmp_path / 'out' / 'adapter'}\n"
    assert "train: done in" in first[2]
    assert (second[1], "train: done" in second[2]) == ("", False)
    assert (tmp_path / "out" / "adapter" / "adapter.json").is_file()


def test_processes_launched_into_a_folder_in_use_are_both_refused(
    arguments: list[object], tmp_path: Path
) -> None:
    with lock_folder(tmp_path, "train.lock"), lock_folder(tmp_path, "train-1.lock"):
        for code, _, errors in medgen_twice(*arguments, "--out", tmp_path):
            assert code == 2
            assert f"{tmp_path}: in use by process {os.getpid()}" in errors
