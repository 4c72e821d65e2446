import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from medgen_cli.errors import Terminated
from medgen_cli.progress import ProgressLine
from medgen_cli.stop_signals import forget_signals, raise_on_signals, stop_after_step


@pytest.fixture
def handled() -> Iterator[None]:
    """Handle signals as `medgen` does, for one test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise_on_signals()
    yield
    forget_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_first_signal_is_a_request_and_the_second_stops_at_once(
    number: signal.Signals, error: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    with stop_after_step() as stop:
        assert not stop.is_requested()
        os.kill(os.getpid(), number)
        assert stop.is_requested()
        assert isinstance(stop.as_error(), error)
        with pytest.raises(error):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_work_that_swallowed_a_signal_ends_at_its_next_report(
    number: signal.Signals, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressLine("work") as progress:
        progress(1, 3)
        with suppress(BaseException):
            os.kill(os.getpid(), number)
        with pytest.raises(error):
            progress(2, 3)
        forget_signals()
        progress(3, 3)
    assert "work: done in" in capsys.readouterr().err

    with pytest.raises(error), ProgressLine("work that never reports"), suppress(BaseException):
        os.kill(os.getpid(), number)


@pytest.mark.usefixtures("handled")
def test_an_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on_signals()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_stopped_training_writes_a_checkpoint_and_goes_on_from_it(tmp_path: Path) -> None:
    from medgen_data.phantoms import write_phantom_dataset
    from medgen_models.tiny import write_tiny_text_encoder

    write_phantom_dataset(tmp_path / "data", num_images=16, size=64, seed=0, test_fraction=0.25)
    encoder = write_tiny_text_encoder(tmp_path / "encoder")
    command = [sys.executable, "-m", "medgen_cli.main", "train", "--data", tmp_path / "data"]
    command += ["--out", tmp_path / "train", "--text-encoder", encoder, "--device", "cpu"]
    for change in ("num_steps=9999", "batch_size=2", "log_every=1"):
        command += ["--set", f"train.autoencoder.{change}"]
    log_file = tmp_path / "train" / "train_log.jsonl"

    last_step = _stop_after_some_steps(command, log_file, signal.SIGTERM, exit_code=143)
    checkpoints = list((tmp_path / "train").rglob(f"checkpoint-{last_step}"))
    assert len(checkpoints) == 1
    assert (checkpoints[0] / "complete").is_file()
    first_rows = log_file.read_text().splitlines()
    _stop_after_some_steps([*command, "--resume"], log_file, signal.SIGINT, exit_code=130)
    assert log_file.read_text().splitlines()[: len(first_rows)] == first_rows


def _stop_after_some_steps(
    command: list[object], log_file: Path, number: signal.Signals, *, exit_code: int
) -> int:
    """Send a signal once training has made two more steps, and return the last step it logged."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    num_before = _num_rows(log_file)
    with subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 50
        while _num_rows(log_file) < num_before + 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == exit_code, stderr
    assert "stopping after this step, with a checkpoint" in stderr
    assert "Traceback" not in stderr
    return _num_rows(log_file)


def _num_rows(log_file: Path) -> int:
    return len(log_file.read_text().splitlines()) if log_file.exists() else 0
