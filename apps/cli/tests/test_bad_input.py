"""Every foreseeable mistake at the level of the command: the right code, one clear error, no traceback."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.run_folder import lock_folder, read_run

Call = Callable[..., Any]

RECIPE = """\
name: small
seed: 3
data: {kind: phantoms, num_images: 32, size: 64, test_fraction: 0.25}
train:
  preset: msdm-tiny
  autoencoder: {num_steps: 1, batch_size: 4}
  denoiser: {num_steps: 1, batch_size: 4}
sample: {num_inference_steps: 1, num_images: 4}
"""


@pytest.fixture
def recipe(write: Call) -> Path:
    file: Path = write("recipe.yaml", RECIPE)
    return file


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medgen_data.phantoms import write_phantom_dataset

    folder = tmp_path_factory.mktemp("phantoms") / "dataset"
    write_phantom_dataset(folder, num_images=16, size=64, seed=0, test_fraction=0.25)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", "nowhere", "--out", "c.jsonl"],
        ["train", "--data", "nowhere", "--out", "t"],
        ["score", "nowhere", "nowhere"],
        ["classify", "--real", "nowhere", "--synthetic", "nowhere", "--out", "c"],
        ["data", "--kind", "class-folders", "--root", "nowhere", "--out", "d"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_missing_data_folder_is_named(
    medgen: Call, one_clear_error: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    message = one_clear_error(medgen(*arguments), 3)
    assert "nowhere" in message
    assert list(tmp_path.iterdir()) == []


def test_missing_recipe_is_named(medgen: Call, one_clear_error: Call, tmp_path: Path) -> None:
    message = one_clear_error(medgen("run", "nowhere.yaml", "--out", tmp_path / "run"), 2)
    assert "nowhere.yaml: no such file" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampel: {}\n", 'recipe.yaml: sampel: unknown key; did you mean "sample"?'),
        ("score: {extracter: x}\n", 'recipe.yaml: score.extracter: unknown key; did you mean "extractor"?'),
        ("num_images: 3\n", 'recipe.yaml: num_images: unknown key; did you mean "data.num_images"?'),
        ("caption: {method: llava}\n", "recipe.yaml: caption.method: should be"),
        ("score: {k: 0}\n", "recipe.yaml: score.k: should be greater than or equal to 1, got 0"),
        ("classify: [1]\n", "recipe.yaml: classify: "),
    ],
)
def test_wrong_recipe_names_file_field_and_remedy(
    medgen: Call, one_clear_error: Call, write: Call, tmp_path: Path, text: str, said: str
) -> None:
    ran = medgen("run", write("recipe.yaml", RECIPE + text), "--out", tmp_path / "run")
    message = one_clear_error(ran, 2)
    assert said in message
    assert len(message.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sample.num_image=4", 'sample.num_image: unknown key; did you mean "num_images"?'),
        ("train.denoiser.learning_rate=fast", "train.denoiser.learning_rate: should be a valid number"),
        ("train.denoiser", "--set train.denoiser: expected name.name=value"),
    ],
)
def test_wrong_override_is_refused(
    medgen: Call, one_clear_error: Call, recipe: Path, tmp_path: Path, change: str, said: str
) -> None:
    ran = medgen("run", recipe, "--out", tmp_path / "run", "--set", change)
    assert said in one_clear_error(ran, 2)


def test_wrong_flag_of_a_single_command_names_the_field(
    medgen: Call, one_clear_error: Call, tmp_path: Path
) -> None:
    message = one_clear_error(medgen("data", "--kind", "phantom", "--out", tmp_path / "d"), 2)
    assert "command line: data.kind: should be 'phantoms'" in message


@pytest.mark.parametrize("content", [b"name: [1, 2\n", b"\xff\xfe", b"- 1\n", b"name: x\nname: y\n"])
def test_unreadable_recipe_is_refused(
    medgen: Call, one_clear_error: Call, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert "broken.yaml" in one_clear_error(medgen("run", file, "--out", tmp_path / "run"), 2)


def test_run_folder_in_use_names_the_process(
    medgen: Call, one_clear_error: Call, recipe: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with lock_folder(run_dir):
        message = one_clear_error(medgen("run", recipe, "--out", run_dir), 2)
    assert f"in use by process {os.getpid()}" in message


def test_folder_with_other_things_is_not_used(
    medgen: Call, one_clear_error: Call, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert "not a run folder" in one_clear_error(medgen("run", recipe, "--out", tmp_path), 2)


def test_nothing_to_resume_is_not_a_new_run(
    medgen: Call, one_clear_error: Call, recipe: Path, tmp_path: Path, dataset: Path
) -> None:
    for arguments in (
        ["run", recipe, "--out", tmp_path / "new", "--resume"],
        ["train", "--data", dataset, "--out", tmp_path / "new", "--resume"],
        ["sample", tmp_path, "--prompts", dataset, "--out", tmp_path / "new", "--resume"],
    ):
        assert "nothing to resume" in one_clear_error(medgen(*arguments), 2)
        assert not (tmp_path / "new").exists()


def test_checkpoint_of_another_recipe_is_refused(
    medgen: Call, one_clear_error: Call, tmp_path: Path, dataset: Path
) -> None:
    from medgen_models.tiny import write_tiny_text_encoder

    encoder = write_tiny_text_encoder(tmp_path / "encoder")
    common = ["train", "--data", dataset, "--out", tmp_path / "train", "--text-encoder", encoder]
    steps = ["--set", "train.autoencoder.num_steps=1", "--set", "train.denoiser.num_steps=1"]
    small = ["--set", "train.autoencoder.batch_size=2", "--set", "train.denoiser.batch_size=2"]
    ran = medgen(*common, *steps, *small, "--device", "cpu", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout) == {"model": str(tmp_path / "train" / "model")}
    other = [*common, *steps, "--set", "train.autoencoder.batch_size=2", "--resume", "--device", "cpu"]
    message = one_clear_error(medgen(*other), 2)
    assert "batch_size" in message
    again = medgen(*common, *steps, *small, "--device", "cpu")
    assert "--resume" in one_clear_error(again, 2)


def test_missing_model_is_code_five(
    medgen: Call, one_clear_error: Call, tmp_path: Path, dataset: Path
) -> None:
    ran = medgen("sample", tmp_path / "nowhere", "--prompts", dataset, "--out", tmp_path / "s", "--json")
    assert "nowhere" in one_clear_error(ran, 5)
    assert json.loads(ran.stdout)["error"]["exit_code"] == 5


def test_prompts_that_do_not_exist_are_named(
    medgen: Call, one_clear_error: Call, tmp_path: Path, write: Call
) -> None:
    ran = medgen("sample", tmp_path, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "s")
    assert "p.txt: no such file or data set" in one_clear_error(ran, 3)
    ran = medgen("sample", tmp_path, "--prompts", write("empty.txt", "\n \n"), "--out", tmp_path / "s")
    assert "empty.txt: holds no prompt" in one_clear_error(ran, 3)


def test_device_that_is_not_there_is_refused(medgen: Call, one_clear_error: Call, dataset: Path) -> None:
    ran = medgen("score", dataset, dataset, "--device", "tpu")
    assert "--device tpu" in one_clear_error(ran, 2)


def test_limit_that_cannot_be_read_is_refused_before_any_work(
    medgen: Call, one_clear_error: Call, dataset: Path
) -> None:
    ran = medgen("score", dataset, dataset, "--fail-if", "frechet above 60")
    assert 'expected NAME>NUMBER or NAME<NUMBER, e.g. --fail-if "frechet>60"' in one_clear_error(ran, 2)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third image on, every write of image data finds a full disk."""
    write, seen = os.write, 0

    def refuse(descriptor: int, content: bytes) -> int:
        nonlocal seen
        seen += bytes(content[:4]) == b"\x89PNG"
        if seen > 2 and bytes(content[:4]) == b"\x89PNG":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", refuse)


@pytest.mark.usefixtures("full_disk")
def test_full_disk_is_code_six(medgen: Call, one_clear_error: Call, recipe: Path, tmp_path: Path) -> None:
    ran = medgen("data", "--kind", "phantoms", "--num-images", 16, "--size", 64, "--out", tmp_path / "d")
    assert "no room to write" in one_clear_error(ran, 6)
    assert not (tmp_path / "d").exists()
    ran = medgen("run", recipe, "--out", tmp_path / "run", "--device", "cpu")
    one_clear_error(ran, 6)
    record = read_run(tmp_path / "run")
    assert (record.status, record.exit_code, record.stages["data"].status) == ("failed", 6, "failed")
    assert "no room" in str(record.error)


def test_defect_leaves_a_crash_file_and_no_traceback(
    medgen: Call, one_clear_error: Call, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("medgen_cli.walk.make_captions", broken)
    run_dir = tmp_path / "run"
    message = one_clear_error(medgen("run", recipe, "--out", run_dir, "--device", "cpu"), 1)
    assert f"the traceback is in {run_dir / 'crash.txt'}" in message
    assert "KeyError: 'a defect'" in (run_dir / "crash.txt").read_text()
    record = read_run(run_dir)
    assert (record.status, record.stages["data"].status, record.stages["captions"].status) == (
        "failed",
        "complete",
        "failed",
    )


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_run_cleanly(
    one_clear_error: Call, recipe: Path, tmp_path: Path, number: int, exit_code: int, medgen: Call
) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "medgen_cli.main", "run", recipe, "--out", run_dir, "--device", "cpu"]
    command += ["--set", "data.num_images=5000"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs, and these tests may be one, with SIGINT ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    ) as process:
        deadline = time.monotonic() + 40
        while not any(run_dir.rglob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == exit_code, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "run the same command again to continue" in stderr
    record = read_run(run_dir)
    assert (record.status, record.exit_code, record.stages["data"].status) == (
        "interrupted",
        exit_code,
        "interrupted",
    )
    changed = medgen("run", recipe, "--out", run_dir, "--device", "cpu")
    assert "data.num_images: 5000 -> 32" in one_clear_error(changed, 2)
