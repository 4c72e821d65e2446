"""What several test files of the command line need."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from medgen_cli.main import run_command_line


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def medgen(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run_command_line([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def python() -> Callable[[str], Ran]:
    """Run a piece of Python in a process of its own."""

    def call(code: str) -> Ran:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def one_clear_error() -> Callable[[Ran, int], str]:
    """Check that a command failed cleanly, and return what it said."""

    def check(ran: Ran, exit_code: int) -> str:
        assert ran.exit_code == exit_code, ran.stderr
        assert "Traceback" not in ran.stderr
        errors = [line for line in ran.stderr.splitlines() if line.startswith("medgen: error: ")]
        assert len(errors) == 1, ran.stderr
        return ran.stderr[ran.stderr.index("medgen: error: ") :]

    return check


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a text file below the test's folder."""

    def call(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return call
