import json
import re
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]
COMMANDS = (
    "data",
    "caption",
    "paraphrase",
    "train",
    "sample",
    "score",
    "classify",
    "export",
    "report",
    "compare",
    "run",
    "demo",
    "review",
)


def test_help_lists_every_command(medgen: Call) -> None:
    ran = medgen("--help")
    assert ran.exit_code == 0
    listed = re.findall(r"^  (\w+)  ", ran.stdout.split("Commands:")[1], flags=re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(medgen: Call, command: str) -> None:
    for flag in ("--help", "-h"):
        ran = medgen(command, flag)
        assert ran.exit_code == 0
        assert ran.stdout.startswith(f"Usage: medgen {command} ")


def test_help_documents_the_exit_codes(medgen: Call) -> None:
    text = medgen("--help").stdout
    for code in (
        "0 done",
        "1 defect",
        "2 usage",
        "4 done but",
        "5 a model",
        "6 out of",
        "7 a --fail-if",
        "8 a loss",
        "130",
        "143",
    ):
        assert code in " ".join(text.split())


def test_nothing_to_do_shows_the_help(medgen: Call) -> None:
    assert medgen().stdout == medgen("--help").stdout


def test_help_is_quick_and_loads_no_torch(python: Call) -> None:
    code = (
        "import time; start = time.perf_counter()\n"
        "import sys, medgen_cli.main as m\n"
        "assert m.run_command_line(['--help']) == 0 and m.run_command_line(['run', '--help']) == 0\n"
        "print('SECONDS', time.perf_counter() - start)\n"
        "print('LOADED', *(n for n in ('torch', 'numpy', 'PIL', 'diffusers', 'medgen_data') if n in sys.modules))\n"
    )
    times = []
    for _ in range(3):  # the machine may be busy: the best of three is the program's own time
        ran = python(code)
        assert ran.exit_code == 0, ran.stderr
        times.append(float(re.search(r"SECONDS ([\d.]+)", ran.stdout)[1]))
        assert re.search(r"^LOADED *$", ran.stdout, flags=re.MULTILINE), ran.stdout[-200:]
    assert min(times) <= 0.5


def test_version_names_every_package(medgen: Call) -> None:
    ran = medgen("--version")
    assert ran.exit_code == 0
    assert re.search(r"^medgen \d+\.\d+\.\d+$", ran.stdout, flags=re.MULTILINE)
    assert "medgen-metrics" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["traain"], "traain"),
        (["run", "--otu", "x"], "--otu"),
        (["report"], "RUN"),
        (["data", "--out", "x", "--size", "large"], "--size"),
    ],
)
def test_wrong_usage_is_one_line_and_code_two(
    medgen: Call, one_clear_error: Call, arguments: list[str], said: str
) -> None:
    ran = medgen(*arguments)
    message = one_clear_error(ran, 2)
    assert said in message
    assert "--help" in message
    assert ran.stdout == ""


def test_failure_with_json_can_be_parsed(medgen: Call) -> None:
    for arguments in (["report", "nowhere", "--json"], ["traain", "--json"], ["run", "--out", "x", "--json"]):
        ran = medgen(*arguments)
        error = json.loads(ran.stdout)["error"]
        assert error["exit_code"] == ran.exit_code == 2
        assert error["message"] in ran.stderr


def test_debug_shows_the_traceback(medgen: Call) -> None:
    assert "Traceback" in medgen("report", "nowhere", "--debug").stderr


def test_reading_end_of_a_pipe_may_close_early(python: Call) -> None:
    code = (
        "import subprocess, sys\n"
        "done = subprocess.run(f'{sys.executable} -m medgen_cli.main --help | head -n 1', shell=True,"
        " capture_output=True, text=True)\n"
        "print(done.stdout, done.stderr)\n"
    )
    ran = python(code)
    assert "Usage: medgen" in ran.stdout
    assert "Traceback" not in ran.stdout
