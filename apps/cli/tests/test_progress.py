import pytest
from medgen_cli.progress import ProgressLine


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_one_line_is_written_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with ProgressLine("sample", interactive=False, clock=clock) as progress:
        for done in range(1, 101):
            clock.now += 1.0
            progress(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sample: 30/100, 1.0/s, ETA 1:10",
        "sample: 60/100, 1.0/s, ETA 0:40",
        "sample: 90/100, 1.0/s, ETA 0:10",
        "sample: done in 1:40",
    ]


def test_items_of_an_earlier_run_do_not_count_as_speed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = ProgressLine("sample", interactive=False, clock=clock)
    clock.now = 1.0
    progress(500, 1000)
    clock.now = 51.0
    progress(600, 1000)
    assert capsys.readouterr().err == "sample: 600/1000, 2.0/s, ETA 3:20\n"


def test_figures_and_phase_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = ProgressLine("train", interactive=False, clock=clock)
    clock.now = 40.0
    progress(0, 10, phase="denoiser", figures={"loss": 0.123456})
    assert capsys.readouterr().err == "train denoiser: 0/10, loss 0.1235\n"


def test_progress_never_touches_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for interactive in (True, False):
        with ProgressLine("caption", interactive=interactive) as progress:
            progress(1, 2)
            progress(2, 2)
    assert capsys.readouterr().out == ""


def test_stopped_work_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), ProgressLine("caption", interactive=False):
        raise KeyboardInterrupt
    assert "done" not in capsys.readouterr().err
