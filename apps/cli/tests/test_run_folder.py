import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.errors import UsageError
from medgen_cli.run_folder import RunFolder, StageOutcome, lock_folder, open_run, read_run

RECIPE: dict[str, Any] = {"name": "x", "seed": 0, "sample": {"num_images": 4}}
PROVENANCE: dict[str, Any] = {"versions": {"medgen": "0.1.0"}, "git_commit": None}


def open_it(run_dir: Path, recipe: dict[str, Any] = RECIPE, *, fork: bool = False) -> Any:
    return open_run(
        run_dir, name="x", recipe=recipe, overrides=[], device="cpu", provenance=PROVENANCE, fork=fork
    )


def writes(run: RunFolder, text: str, calls: list[str] | None = None) -> Callable[[], StageOutcome]:
    """Return a stage that writes one file."""

    def do() -> StageOutcome:
        file = run.run_dir / "data" / "out.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        if calls is not None:
            calls.append(text)
        return StageOutcome((file,), {"num_images": 1})

    return do


def stage(
    run: RunFolder, do: Callable[[], StageOutcome], *, config: object = 1, inputs: tuple[str, ...] = ()
) -> bool:
    return run.run_stage("data", config=config, inputs=inputs, do=do)


def test_record_tells_everything_and_completes_last(tmp_path: Path) -> None:
    with open_it(tmp_path / "run") as run:
        assert read_run(run.run_dir).status == "running"
        stage(run, writes(run, "a"))
        run.finish("complete", exit_code=0)
    record = read_run(tmp_path / "run")
    assert (record.status, record.exit_code, record.recipe, record.versions) == (
        "complete",
        0,
        RECIPE,
        {"medgen": "0.1.0"},
    )
    data = record.stages["data"]
    assert (data.status, data.figures) == ("complete", {"num_images": 1})
    # sha256 of "a"
    assert data.outputs == {
        "data/out.txt": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    }
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert events == ["run started", "stage started", "stage finished", "run complete"]


def test_finished_stage_is_skipped(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        with open_it(tmp_path) as run:
            stage(run, writes(run, "a", calls))
    assert calls == ["a"]


@pytest.mark.parametrize("change", [{"config": 2}, {"inputs": ("other",)}])
def test_stage_with_other_settings_or_inputs_is_done_again_and_the_old_result_kept(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with open_it(tmp_path) as run:
        stage(run, writes(run, "a"))
        assert stage(run, writes(run, "b"), **change)
    assert (tmp_path / "data" / "out.txt").read_text() == "b"
    assert (tmp_path / "history" / "001-data" / "out.txt").read_text() == "a"


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("tampered")])
def test_stage_whose_files_changed_is_done_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    with open_it(tmp_path) as run:
        stage(run, writes(run, "a"))
        damage(tmp_path / "data" / "out.txt")
        assert stage(run, writes(run, "a"))


def test_interrupted_stage_continues_in_its_own_files(tmp_path: Path) -> None:
    def stop_halfway() -> StageOutcome:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_it(tmp_path) as run:
        stage(run, stop_halfway)
    assert read_run(tmp_path).stages["data"].status == "interrupted"
    with open_it(tmp_path) as run:
        stage(run, writes(run, "a"))
    assert (tmp_path / "data" / "half.txt").read_text() == "half"


def test_changed_recipe_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    with open_it(tmp_path):
        pass
    changed = {**RECIPE, "sample": {"num_images": 9}}
    with (
        pytest.raises(UsageError, match=r"another recipe.*--fork.*\n  sample\.num_images: 4 -> 9"),
        open_it(tmp_path, changed),
    ):
        pass
    assert read_run(tmp_path).recipe == RECIPE


def test_fork_accepts_the_changed_recipe_and_keeps_the_old_record(tmp_path: Path) -> None:
    calls: list[str] = []
    with open_it(tmp_path) as run:
        stage(run, writes(run, "a", calls))
    changed = {**RECIPE, "sample": {"num_images": 9}}
    with open_it(tmp_path, changed, fork=True) as run:
        stage(run, writes(run, "a", calls))
    assert calls == ["a"]  # what the change does not touch is not done again
    assert read_run(tmp_path).recipe == changed
    assert json.loads((tmp_path / "history" / "001-run.json").read_text())["recipe"] == RECIPE


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("x")
    with (
        pytest.raises(UsageError, match="not empty and not a run folder; choose a new --out"),
        open_it(tmp_path),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


def test_edited_record_is_refused_with_its_field(tmp_path: Path) -> None:
    with open_it(tmp_path):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "status": "great"}))
    with pytest.raises(UsageError, match=r"run\.json: status: "), open_it(tmp_path):
        pass


def test_second_process_is_refused_and_told_the_first_ones_number(tmp_path: Path) -> None:
    holder = _hold_lock(tmp_path)
    try:
        with pytest.raises(UsageError, match=rf"in use by process {holder.pid}; wait"), open_it(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with open_it(tmp_path):
        pass  # the lock of a killed process is free


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path):
        raise ZeroDivisionError
    with lock_folder(tmp_path):
        assert (tmp_path / "run.lock").read_text() == str(os.getpid())


def test_kills_at_any_moment_leave_a_record_that_can_be_read(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from medgen_cli.run_folder import open_run, StageOutcome\n"
        "with open_run(Path(sys.argv[1]), name='x', recipe={'name': 'x'}, overrides=[], device='cpu',"
        " provenance={'versions': {}, 'git_commit': None}) as run:\n"
        "    print('ready', flush=True)\n"
        "    n = 0\n"
        "    while True:\n"
        "        n += 1\n"
        "        run.run_stage('data', config=n, inputs=[], do=lambda: StageOutcome((), {'n': n}))\n"
    )
    for delay in (0.0, 0.003, 0.007, 0.013, 0.021, 0.034):
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert read_run(tmp_path / "run").status == "running"


def _hold_lock(run_dir: Path) -> "subprocess.Popen[str]":
    code = (
        "import sys, time; from pathlib import Path; from medgen_cli.run_folder import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(run_dir)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    return holder


def test_continued_run_keeps_its_start_its_options_and_its_highest_peak(tmp_path: Path) -> None:
    options: dict[str, Any] = {"name": "x", "recipe": RECIPE, "device": "cpu", "provenance": PROVENANCE}
    with open_run(tmp_path, overrides=["seed=0"], **options) as run:
        run.finish(
            "interrupted", exit_code=130, memory={"peak_memory_bytes": 900, "peak_gpu_memory_bytes": None}
        )
    first = read_run(tmp_path)
    with open_run(tmp_path, overrides=[], **options) as run:
        run.finish("complete", exit_code=0, memory={"peak_memory_bytes": 300, "peak_gpu_memory_bytes": None})
    second = read_run(tmp_path)
    assert (second.started_at, second.overrides) == (first.started_at, ("seed=0",))
    assert (second.peak_memory_bytes, second.peak_gpu_memory_bytes) == (900, None)
