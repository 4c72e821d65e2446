"""`medgen paraphrase` on small tables, as a user would call it."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_captioning.clinical_facts import accepts
from medgen_captioning.paraphrasing import paraphrase_files
from medgen_captioning.tiny.server import tiny_server
from medgen_captioning.tiny.text_model import write_tiny_llama
from medgen_data.phantoms import write_phantom_dataset

Call = Callable[..., Any]
TABLE = (
    "Prompt;Filename\n"
    "Generate an image with 1 polyp.;a.jpg\n"
    "Generate an image with an an abnormality located in the center and lower-left.;a.jpg\n"
    "Generate an image with 1 polyp.;b.jpg\n"
    "Generate an image with no polyps.;c.jpg\n"
)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_every_prompt_of_every_image_gets_other_words(medgen: Call, write: Call, tmp_path: Path) -> None:
    source, out = write("prompts.csv", TABLE), tmp_path / "p.csv"
    ran = medgen("paraphrase", source, "--out", out, "--seed", 3, "--json")
    assert ran.exit_code == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["num_prompts"], result["num_rejected"], result["problems"]) == (3, 0, [])
    rows = rows_of(out)
    assert [row["Filename"] for row in rows] == ["a.jpg", "a.jpg", "b.jpg", "c.jpg"]
    assert len({row["Paraphrase"] for row in rows}) == 4
    assert all(accepts(row["Prompt"], row["Paraphrase"]).accepted for row in rows)
    again = tmp_path / "again.csv"
    medgen("paraphrase", source, "--out", again, "--seed", 3)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("flags", "num_texts", "num_prompts_kept"),
    [
        (["--strategy", "add"], 8, 4),
        (["--strategy", "replace_all"], 4, 0),
        (["--strategy", "replace_random", "--p", "0.5"], 4, None),
    ],
)
def test_strategies_write_prompts_as_the_importer_reads_them(
    medgen: Call, write: Call, tmp_path: Path, flags: list[str], num_texts: int, num_prompts_kept: int | None
) -> None:
    source, out = write("prompts.csv", TABLE), tmp_path / "p.csv"
    ran = medgen("paraphrase", source, "--out", out, "--json", *flags)
    assert json.loads(ran.stdout)["num_texts"] == num_texts, ran.stderr
    lines = (tmp_path / "p.texts.csv").read_text().splitlines()
    assert lines[0] == "Prompt;Filename"
    assert len(lines) == num_texts + 1
    kept = len([line for line in lines[1:] if line in TABLE])
    assert kept == num_prompts_kept or (num_prompts_kept is None and kept <= num_texts)


def test_captions_and_data_sets_are_sources_too(medgen: Call, tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "phantoms", num_images=8, seed=0)
    out = tmp_path / "p.csv"
    ran = medgen("paraphrase", dataset.root, "--out", out, "--per-prompt", 2, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert {row["Filename"] for row in rows_of(out)} == {record.file_name for record in dataset.records}
    captions = tmp_path / "captions.jsonl"
    assert medgen("caption", dataset.root, "--method", "measured", "--out", captions).exit_code == 0
    ran = medgen("paraphrase", captions, "--out", out, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert {row["Filename"] for row in rows_of(out)} == {record.record_id for record in dataset.records}


def test_a_dry_run_counts_and_writes_nothing(medgen: Call, write: Call, tmp_path: Path) -> None:
    source, out = write("prompts.csv", TABLE), tmp_path / "p.csv"
    ran = medgen("paraphrase", source, "--out", out, "--per-prompt", 5, "--dry-run", "--json")
    counts = {"num_images": 4, "num_prompts": 3, "num_done": 0, "num_wanted": 15}
    assert json.loads(ran.stdout) == {**counts, "most_answers": 0}
    asked = ["--method", "llm", "--model", "nowhere", "--dry-run", "--json"]
    ran = medgen("paraphrase", source, "--out", out, "--per-prompt", 5, *asked)
    assert json.loads(ran.stdout) == {**counts, "most_answers": 12}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.csv"]


def test_a_killed_run_goes_on_where_it_stopped(medgen: Call, write: Call, tmp_path: Path) -> None:
    lines = "".join(f"Generate an image with {n} polyps.\n" for n in range(2, 60))
    source, out = write("prompts.txt", lines), tmp_path / "p.csv"
    # Killed without a word after the 20th prompt, in a process of its own.
    code = (
        "import os, sys\n"
        "from medgen_captioning.paraphrasing import paraphrase_files\n"
        "append = paraphrase_files._Journal.append\n"
        "def append_or_die(journal, entry, seen=[]):\n"
        "    append(journal, entry); seen.append(entry)\n"
        "    if len(seen) == 20: os.kill(os.getpid(), 9)\n"
        "paraphrase_files._Journal.append = append_or_die\n"
        "from medgen_cli.main import run_command_line\n"
        f"run_command_line(['paraphrase', {str(source)!r}, '--out', {str(out)!r}])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -9
    assert not out.exists()
    dry = medgen("paraphrase", source, "--out", out, "--dry-run", "--json")
    assert json.loads(dry.stdout)["num_done"] == 20
    ran = medgen("paraphrase", source, "--out", out, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["num_reused"]) == (0, 20)
    whole = tmp_path / "whole.csv"
    medgen("paraphrase", source, "--out", whole)
    assert whole.read_bytes() == out.read_bytes()


def test_prompts_without_paraphrase_are_listed_and_the_others_done(
    medgen: Call, write: Call, tmp_path: Path, one_clear_error: Call
) -> None:
    source = write("prompts.txt", "Generate an image with 1 polyp.\nZebra.\n")
    ran = medgen("paraphrase", source, "--out", tmp_path / "p.csv", "--json")
    message = one_clear_error(ran, 4)
    assert "1 prompts have no paraphrase" in message
    assert "Zebra" in message
    assert [problem["code"] for problem in json.loads(ran.stdout)["problems"]] == ["no-paraphrase"]
    assert [row["Prompt"] for row in rows_of(tmp_path / "p.csv")] == ["Generate an image with 1 polyp."]
    assert "Zebra" in (tmp_path / "p.rejected.jsonl").read_text()


def test_what_states_something_else_is_kept_out_and_told(
    medgen: Call, write: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(prompts: list[str], num: int, seed: int) -> list[list[str]]:
        return [["Create an image of one polyp.", "Create an image of two polyps."] for _ in prompts]

    monkeypatch.setattr("medgen_cli.stages.paraphrases.grammar_paraphrases", careless)
    source, out = write("prompts.txt", "Generate an image with 1 polyp.\n"), tmp_path / "p.csv"
    ran = medgen("paraphrase", source, "--out", out, "--per-prompt", 2, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["num_rejected"]) == (0, 1)
    listed = (tmp_path / "p.rejected.jsonl").read_text()
    assert "polyp: count is 1 in the original, 2 in the rewrite" in listed
    assert [row["Paraphrase"] for row in rows_of(out)] == ["Create an image of one polyp."]


@pytest.mark.parametrize(
    ("name", "content", "flags", "code", "message"),
    [
        ("p.csv", "Prompt|Filename\na|b\n", [], 3, "p.csv, line 1: expected columns Prompt"),
        ("p.csv", "Text;File\na;b\n", [], 3, "p.csv, line 1: expected columns Prompt"),
        ("p.txt", "", [], 3, "p.txt: holds no text"),
        ("p.png", "x", [], 3, "expected a data set folder, or a file that ends in .csv"),
        ("p.txt", "One polyp.\n", ["--strategy", "replace_random"], 2, "probability belongs to strategy"),
        ("p.txt", "One polyp.\n", ["--p", "0.5"], 2, "probability belongs to strategy"),
        ("p.txt", "One polyp.\n", ["--method", "oracle"], 2, "paraphrase.method"),
        ("p.txt", "One polyp.\n", ["--per-prompt", "0"], 2, "paraphrase.per_prompt"),
        ("p.txt", "One polyp.\n", ["--model", "m"], 2, "have no meaning without --method llm"),
        ("p.txt", "One polyp.\n", ["--method", "llm"], 2, "language_model belongs to method llm"),
        (
            "p.txt",
            "One polyp.\n",
            ["--method", "llm", "--model", "m", "--base-url", "https://api.example.org/v1"],
            3,
            "api.example.org, which is not this machine",
        ),
        ("p.txt", "Zebra.\n", [], 3, "none of 1 prompts could be paraphrased"),
    ],
)
def test_bad_input_is_one_clear_error(
    medgen: Call,
    write: Call,
    tmp_path: Path,
    one_clear_error: Call,
    name: str,
    content: str,
    flags: list[str],
    code: int,
    message: str,
) -> None:
    source, out = write(name, content), tmp_path / "out.csv"
    assert message in one_clear_error(medgen("paraphrase", source, "--out", out, *flags), code)
    assert not out.exists()


def answers(body: dict[str, Any]) -> str:
    """Answer as a model would: right for one polyp, wrong for no polyps."""
    prompt = body["messages"][0]["content"][0]["text"].partition("Sentence: ")[2]
    written = {
        "Generate an image with 1 polyp.": ["Create a picture of one polyp.", "Show a lone polyp."],
        "Generate an image with no polyps.": ["Create a picture of two polyps."],
    }
    return json.dumps({"paraphrases": written.get(prompt, [])})


PROMPTS = "Generate an image with 1 polyp.\nGenerate an image with no polyps.\n"


def test_why_a_model_wrote_nothing_stands_beside_the_prompt(
    medgen: Call, write: Call, tmp_path: Path
) -> None:
    source, out = write("prompts.txt", PROMPTS + "Zebra.\n"), tmp_path / "p.csv"
    with tiny_server(answer=answers) as server:
        ran = medgen("paraphrase", source, "--out", out, "--json", *of_server(server.base_url))
    details = [problem["detail"] for problem in json.loads(ran.stdout)["problems"]]
    assert any("'Zebra.' could be taken (no sentence in it)" in detail for detail in details)


def of_server(url: str, *more: str) -> list[str]:
    quick = ["timeout_s=0.5", "backoff_s=0.01", "max_tries=2"]
    sets = [f"--set=paraphrase.language_model.server.{each}" for each in quick]
    return ["--method", "llm", "--model", "tiny", "--base-url", url, *sets, *more]


def test_a_model_on_a_server_is_judged_and_asked_once(
    medgen: Call, write: Call, tmp_path: Path, one_clear_error: Call
) -> None:
    source, out = write("prompts.txt", PROMPTS), tmp_path / "p.csv"
    with tiny_server(answer=answers) as server:
        flags = of_server(server.base_url, "--set=paraphrase.language_model.max_attempts=2")
        ran = medgen("paraphrase", source, "--out", out, "--json", *flags)
        assert "1 prompts have no paraphrase" in one_clear_error(ran, 4)
        assert [row["Paraphrase"] for row in rows_of(out)] in (
            [["Create a picture of one polyp."], ["Show a lone polyp."]]
        )
        assert json.loads(ran.stdout)["num_rejected"] == 1
        assert (
            "polyp is stated as absent in the original, as present"
            in (tmp_path / "p.rejected.jsonl").read_text()
        )
        num_requests = server.num_requests
        first = out.read_bytes()
        medgen("paraphrase", source, "--out", out, *flags)
        assert (server.num_requests, out.read_bytes()) == (num_requests, first)


def test_a_server_that_was_down_is_asked_again(
    medgen: Call, write: Call, tmp_path: Path, one_clear_error: Call
) -> None:
    source, out = write("prompts.txt", "Generate an image with 1 polyp.\n"), tmp_path / "p.csv"
    with tiny_server(answer=answers) as server:
        port_url = server.base_url
    message = one_clear_error(medgen("paraphrase", source, "--out", out, *of_server(port_url)), 3)
    assert "none of 1 prompts could be paraphrased" in message
    with tiny_server(fault=lambda _: "wrong-key") as server:
        message = one_clear_error(medgen("paraphrase", source, "--out", out, *of_server(server.base_url)), 3)
    assert "check the key" in message
    with tiny_server(answer=answers) as server:
        assert medgen("paraphrase", source, "--out", out, *of_server(server.base_url)).exit_code == 0


def test_a_model_of_this_machine_that_writes_no_list_is_told(
    medgen: Call, write: Call, tmp_path: Path, one_clear_error: Call
) -> None:
    source, out = write("prompts.txt", PROMPTS), tmp_path / "p.csv"
    folder = write_tiny_llama(tmp_path / "llama")
    decoding = '{"max_new_tokens": 8}'
    flags = ["--method", "llm", "--model", folder, "--set", "paraphrase.language_model.max_attempts=1"]
    flags += [
        "--set",
        f"paraphrase.language_model.text_model.decoding={decoding}",
        "--set",
        "paraphrase.language_model.text_model.dtype=float32",
    ]
    message = one_clear_error(medgen("paraphrase", source, "--out", out, *flags), 3)
    assert "none of 2 prompts could be paraphrased" in message
    assert "must be a JSON object" in message
    flags[3] = tmp_path / "nowhere"
    assert "nowhere" in one_clear_error(medgen("paraphrase", source, "--out", out, *flags), 5)


def test_the_working_file_is_not_left_behind(medgen: Call, write: Call, tmp_path: Path) -> None:
    source, out = write("prompts.csv", TABLE), tmp_path / "p.csv"
    medgen("paraphrase", source, "--out", out)
    assert not paraphrase_files._working_file(out).exists()
