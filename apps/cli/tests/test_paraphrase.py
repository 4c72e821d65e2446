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
    assert json.loads(ran.stdout) == {"num_images": 4, "num_prompts": 3, "num_done": 0, "num_wanted": 15}
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


def test_the_working_file_is_not_left_behind(medgen: Call, write: Call, tmp_path: Path) -> None:
    source, out = write("prompts.csv", TABLE), tmp_path / "p.csv"
    medgen("paraphrase", source, "--out", out)
    assert not paraphrase_files._working_file(out).exists()
