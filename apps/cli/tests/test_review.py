"""A review as its organiser walks it: study, raters, ratings, export, statistics, and what can go wrong."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medgen_data.images import encode_png
from medgen_metrics.rank_files import read_rank_table, read_score_table
from medgen_metrics.rank_sheet import agreement_with_ranks
from medgen_review.schedule import places_on, value_range
from medgen_review.store import RatingStore
from medgen_review.study import RANK, read_study

Call = Callable[..., Any]
PROMPTS = ("one polyp", "a single polyp", "two polyps", "a pair of polyps")
QUALITY = {"good": 8, "bad": 3, "real": 9}


def write_dataset(folder: Path, seed: int, *, synthetic: bool, prompts: tuple[str, ...] = PROMPTS) -> Path:
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, prompt in enumerate(prompts):
        for index in range(3):
            name = f"images/{number}-{index}.png"
            image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            (folder / name).write_bytes(encode_png(image))
            row: dict[str, Any] = {"file_name": name, "record_id": f"r{number}-{index}"}
            row |= {"generation": {"prompt": prompt}} if synthetic else {"text": [prompt]}
            rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    card = {"name": folder.name, "modality": "endoscopic", "synthetic": synthetic, "num_records": len(rows)}
    (folder / "dataset.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def study_words(tmp_path: Path) -> list[object]:
    """Everything `medgen review create` needs."""
    good = write_dataset(tmp_path / "good", 0, synthetic=True)
    bad = write_dataset(tmp_path / "bad", 1, synthetic=True)
    real = write_dataset(tmp_path / "real", 2, synthetic=False)
    words = ["--set", f"good={good}", "--set", f"bad={bad}", "--real", real, "--title", "Which looks right?"]
    words += ["--images", 2, "--references", 2, "--repeats", 1, "--attention", 1, "--alternating"]
    return ["review", "create", *words, "--out", tmp_path / "study.json"]


@pytest.fixture
def study_file(medgen: Call, study_words: list[object], tmp_path: Path) -> Path:
    ran = medgen(*study_words)
    assert ran.exit_code == 0, ran.stderr
    return tmp_path / "study.json"


def rate_all(study_file: Path, seed: int = 0) -> None:
    """Give every value of every rater, as the store takes it from the pages."""
    generator = np.random.default_rng(seed)
    study = read_study(study_file)
    with RatingStore.open(study_file.parent / "ratings.sqlite", study) as store:
        for rater in store.raters():
            for page in store.pages(rater.number):
                places = places_on(study, page)
                ranked = [place.letter for place in places if place.field == RANK]
                ranked.sort(key=lambda letter: -QUALITY[page.model_of(letter)])
                for place in places:
                    lowest, highest = value_range(study, page, place.field)
                    value = QUALITY[page.model_of(place.letter)] + int(generator.integers(-1, 2))
                    value = (
                        1 + ranked.index(place.letter)
                        if place.field == RANK
                        else min(max(value, lowest), highest)
                    )
                    if page.attention is not None:
                        value = page.attention.value
                    words = f"{rater.number}-{page.number}-{place.letter}-{place.field}"
                    store.record(
                        rater.number,
                        page.number,
                        place.letter,
                        place.field,
                        value,
                        action_id=f"action-{words}",
                    )
            store.finish(rater.number)


def test_study_is_created_rated_exported_and_understood(
    medgen: Call, study_file: Path, tmp_path: Path
) -> None:
    again = medgen("review", "raters", study_file, "--add", "Dr Ada", "--add", "Dr Bo", "--json")
    assert again.exit_code == 0, again.stderr
    enrolled = json.loads(again.stdout)
    assert sorted(enrolled["codes"]) == ["Dr Ada", "Dr Bo"]
    assert [rater["state"] for rater in enrolled["raters"]] == ["not begun", "not begun"]
    rate_all(study_file)
    listed = medgen("review", "raters", study_file).stdout
    assert re.search(r"Dr Ada +finished +(\d+) of \1\n", listed)
    ran = medgen("review", "export", study_file, "--out", tmp_path / "ratings", "--json")
    assert ran.exit_code == 0, ran.stderr
    exported = json.loads(ran.stdout)
    assert exported["num_values"] == exported["num_expected"] > 0
    assert exported["unfinished"] == []
    assert (tmp_path / "ratings" / "ranks.csv").read_text().startswith("prompt,item,rank,rater\n")
    scores = []
    for model, value in {"good": 10.0, "bad": 50.0}.items():
        file = tmp_path / f"{model}.json"
        file.write_text(json.dumps({"scores": [{"name": "fbd", "value": value}]}))
        scores += ["--scores", f"{model}={file}"]
    words = (
        "review",
        "stats",
        tmp_path / "ratings" / "ratings.jsonl",
        "--out",
        tmp_path / "results",
        *scores,
    )
    ran = medgen(*words, "--study", study_file, "--json")
    assert ran.exit_code == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert json.loads((tmp_path / "results" / "statistics.json").read_text(encoding="utf-8")) == result
    overall = {each["item"]: each["mean"]["value"] for each in result["means"] if each["aspect"] == "overall"}
    assert overall["good"] == pytest.approx(8, abs=0.5)
    assert overall["bad"] == pytest.approx(3, abs=0.5)
    assert result["score_tiers"][0]["spearman"]["value"] == pytest.approx(1.0)
    assert [rater["attention"]["value"] for rater in result["raters"]] == [1.0, 1.0]
    page = (tmp_path / "results" / "results.html").read_text(encoding="utf-8")
    assert "Which looks right?" in page
    assert "Clinical Realism" in page
    assert (tmp_path / "results" / "figures" / "means.svg").is_file()
    ran = medgen(*words)
    assert re.search(r"^good +8\.\d\d +\d\.\d\d to \d\.\d\d$", ran.stdout, flags=re.MULTILINE)
    assert "note: 2 raters: below 5" in ran.stderr


def test_half_done_study_can_be_exported_and_says_who_is_missing(
    medgen: Call, study_file: Path, tmp_path: Path
) -> None:
    medgen("review", "raters", study_file, "--add", "Dr Ada")
    ran = medgen("review", "export", study_file, "--out", tmp_path / "ratings")
    assert ran.exit_code == 0
    assert "not finished: Dr Ada" in ran.stdout


def test_codes_are_shown_once_renewed_and_withdrawn(medgen: Call, study_file: Path) -> None:
    first = json.loads(medgen("review", "raters", study_file, "--add", "Ada", "--json").stdout)["codes"][
        "Ada"
    ]
    assert first not in medgen("review", "raters", study_file).stdout
    second = json.loads(medgen("review", "raters", study_file, "--renew", "Ada", "--json").stdout)["codes"][
        "Ada"
    ]
    assert second != first
    assert "withdrawn" in medgen("review", "raters", study_file, "--revoke", "Ada").stdout
    for file in study_file.parent.glob("ratings.sqlite*"):
        assert second.encode() not in file.read_bytes()


def test_demo_makes_a_whole_study_and_continues_it(medgen: Call, tmp_path: Path) -> None:
    words = ("review", "demo", "--out", tmp_path / "demo", "--no-serve", "--json")
    first, second = (json.loads(medgen(*words).stdout) for _ in range(2))
    assert list(first["codes"]) == list(second["codes"]) == ["rater 1", "rater 2"]
    assert first["codes"] != second["codes"]
    study = read_study(tmp_path / "demo" / "study.json")
    assert len(study.models) == 3
    assert "rater 2  not begun" in medgen("review", "raters", tmp_path / "demo" / "study.json").stdout


def test_served_study_answers_and_ctrl_c_ends_it_well(study_file: Path) -> None:
    command = [sys.executable, "-m", "medgen_cli.main", "review", "serve", str(study_file), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stderr is not None
            address = served.stderr.readline().split()[0]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            with urllib.request.urlopen(address, timeout=20) as answer:
                text = answer.read().decode()
            assert answer.status == 200
            assert "good" not in re.findall(r"\w+", text)
            request = urllib.request.Request(address, headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=20)
            served.send_signal(signal.SIGINT)
            rest = served.stderr.read()
            assert served.wait(timeout=20) == 0, rest
            assert "stopped; everything that was rated is kept" in rest
            assert "Traceback" not in rest
        finally:
            served.kill()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "good"], 2, "--set must be NAME=PATH, got 'good'"),
        (["--set", "good=elsewhere"], 2, "'good' is given twice"),
        (["--set", "other=/nowhere/at/all"], 3, "/nowhere/at/all"),
        (["--repeats", 9], 3, "num_repeats must be at most"),
        (["--images", 4], 3, "one polyp"),
        (["--set", "real={dir}/good"], 3, "a model must not be called 'real'"),
    ],
)
def test_bad_studies_are_refused(
    medgen: Call,
    one_clear_error: Call,
    study_words: list[object],
    tmp_path: Path,
    words: list[object],
    code: int,
    message: str,
) -> None:
    filled = [str(word).format(dir=tmp_path) for word in words]
    assert message in one_clear_error(medgen(*study_words, *filled), code)


def test_missing_prompt_and_broken_image_are_named(
    medgen: Call, one_clear_error: Call, study_words: list[object], tmp_path: Path
) -> None:
    few = write_dataset(tmp_path / "few", 3, synthetic=True, prompts=PROMPTS[:3])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    message = one_clear_error(medgen(*study_words, "--set", f"few={few}", "--prompts", prompts), 3)
    assert "few" in message
    assert "a pair of polyps" in message
    for image in (tmp_path / "bad" / "images").iterdir():
        image.write_bytes(b"<html>not an image</html>")
    assert "bad/images/" in one_clear_error(medgen(*study_words), 3)


def test_study_changed_by_hand_is_refused_everywhere(
    medgen: Call, one_clear_error: Call, study_file: Path, tmp_path: Path
) -> None:
    study_file.write_text(study_file.read_text().replace("Which looks right?", "Which looks best?"))
    for words in (["raters", study_file, "--add", "Ada"], ["serve", study_file]):
        assert "was changed after it was made" in one_clear_error(medgen("review", *words), 3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["raters", "{study}"], 2, "there are no ratings yet"),
        (["export", "{study}", "--out", "{dir}"], 2, "there are no ratings yet"),
        (
            ["raters", "{study}", "--add", "Ada", "--renew", "Bo"],
            2,
            "no rater is called 'Bo'; enrolled are Ada",
        ),
        (
            ["raters", "{study}", "--add", "Ada", "--add", "Ada"],
            3,
            "a rater called 'Ada' is enrolled already",
        ),
        (["raters", "{study}", "--add", ""], 3, "1 to 100 printable characters"),
        (["raters", "{dir}/none.json", "--add", "Ada"], 3, "none.json: cannot be read"),
        (["serve", "{study}", "--host", "0.0.0.0"], 2, "can be reached from other computers"),
        (["serve", "{study}", "--tls-cert", "{study}"], 2, "TLS needs both files"),
        (["stats", "{dir}/none.jsonl", "--out", "{dir}"], 3, "none.jsonl: cannot be read"),
        (["stats", "{study}", "--out", "{dir}"], 3, "study.json: row 1"),
        (["power", "--simulate", "5"], 2, "--simulate needs --difference"),
        (["power", "--difference", "-1"], 2, "the difference must be above 0, got -1.0"),
        (["power", "--power", "1"], 2, "power must lie between alpha"),
        (["power", "--noise-deviation", "0", "--prompt-deviation", "0"], 2, "one of them above 0"),
        (["create"], 2, "Missing option"),
        (["rates"], 2, "No such command 'rates'"),
    ],
)
def test_bad_input_is_one_clear_error(
    medgen: Call,
    one_clear_error: Call,
    study_file: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    filled = [word.format(study=study_file, dir=tmp_path) for word in words]
    assert message in one_clear_error(medgen("review", *filled), code)


def test_locked_database_is_exit_code_six(medgen: Call, one_clear_error: Call, study_file: Path) -> None:
    medgen("review", "raters", study_file, "--add", "Ada")
    holder = sqlite3.connect(study_file.parent / "ratings.sqlite", isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        message = one_clear_error(medgen("review", "raters", study_file, "--add", "Bo"), 6)
    finally:
        holder.close()
    assert "out of memory" not in message
    assert "Bo" not in medgen("review", "raters", study_file).stdout


def test_ratings_of_another_study_are_refused(
    medgen: Call, one_clear_error: Call, study_file: Path, study_words: list[object], tmp_path: Path
) -> None:
    medgen("review", "raters", study_file, "--add", "Ada")
    other = tmp_path / "other.json"
    assert medgen(*study_words, "--seed", 1, "--out", other).exit_code == 0
    ran = medgen("review", "raters", other, "--database", study_file.parent / "ratings.sqlite")
    assert "another study" in one_clear_error(ran, 3)


def test_ratings_out_of_range_and_unknown_models_are_refused(
    medgen: Call, one_clear_error: Call, study_file: Path, tmp_path: Path
) -> None:
    medgen("review", "raters", study_file, "--add", "Ada")
    rate_all(study_file)
    medgen("review", "export", study_file, "--out", tmp_path)
    ratings = tmp_path / "ratings.jsonl"
    scores = tmp_path / "scores.json"
    scores.write_text('{"scores": [{"name": "fbd", "value": 1}]}')
    ran = medgen("review", "stats", ratings, "--out", tmp_path, "--scores", f"flux={scores}")
    assert "'flux', which was not ranked; ranked were bad, good, real" in one_clear_error(ran, 3)
    rows = [json.loads(line) for line in ratings.read_text(encoding="utf-8").splitlines()]
    first = next(row for row in rows if row["kind"] == "rating")
    first["value"] = 11
    ratings.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ran = medgen("review", "stats", ratings, "--out", tmp_path / "results")
    assert "must lie between 0 and 10, got 11" in one_clear_error(ran, 3)
    assert not (tmp_path / "results").exists()


def test_power_is_told_before_the_study_and_from_a_pilot(
    medgen: Call, study_file: Path, tmp_path: Path
) -> None:
    words = ("review", "power", "--raters", 12, "--prompts", 40, "--models", 2)
    ran = medgen(*words)
    assert re.search(
        r"12 raters x 40 prompts find a difference of \d\.\d\d points \(d = \d\.\d\d\)", ran.stdout
    )
    result = json.loads(medgen(*words, "--difference", 0.55, "--simulate", 300, "--json").stdout)
    assert 0.7 < result["power"] < 0.95
    assert result["simulated_power"] == pytest.approx(result["power"], abs=0.1)
    medgen("review", "raters", study_file, "--add", "Ada", "--add", "Bo")
    rate_all(study_file)
    medgen("review", "export", study_file, "--out", tmp_path)
    piloted = json.loads(medgen(*words, "--pilot", tmp_path / "ratings.jsonl", "--json").stdout)
    # Each rating is off by -1, 0 or 1: variance 2/3, of a difference 4/3.
    assert piloted["noise_deviation"] == pytest.approx((4 / 3) ** 0.5, abs=0.25)


def test_group_without_a_command_shows_its_help(medgen: Call) -> None:
    ran = medgen("review")
    assert (ran.exit_code, ran.stdout) == (0, medgen("review", "--help").stdout)
    listed = re.findall(r"^  (\w+)  ", ran.stdout.split("Commands:")[1], flags=re.MULTILINE)
    assert listed == ["create", "raters", "serve", "export", "stats", "power", "demo"]


def test_help_of_review_loads_nothing_heavy(python: Call) -> None:
    ran = python(
        "import sys, medgen_cli.main as m\n"
        "assert m.run_command_line(['review', 'stats', '--help']) == 0\n"
        "heavy = ('numpy', 'scipy', 'matplotlib', 'sqlalchemy', 'fastapi', 'PIL', 'medgen_review')\n"
        "print('LOADED', *(n for n in heavy if n in sys.modules))\n"
    )
    assert ran.stdout.rstrip().endswith("LOADED"), ran.stdout[-200:]


def test_ranks_agree_with_medgen_metrics_where_real_images_are_hidden_among_the_models(
    medgen: Call, study_words: list[object], tmp_path: Path
) -> None:
    study_file = tmp_path / "hidden.json"
    ran = medgen(*study_words, "--hidden-real", "--images", 1, "--references", 1, "--out", study_file)
    assert ran.exit_code == 0, ran.stderr
    medgen("review", "raters", study_file, "--add", "Ada")
    rate_all(study_file, seed=1)
    medgen("review", "export", study_file, "--out", tmp_path)
    generator = np.random.default_rng(0)
    scores = ["prompt,item,agreement"]
    items = ("good", "bad", "real")
    scores += [f"p{n:03},{item},{generator.normal():.6f}" for n in range(4) for item in items]
    (tmp_path / "scores.csv").write_text("\n".join(scores))
    words = ("--out", tmp_path / "results", "--score-table", tmp_path / "scores.csv", "--json")
    ran = medgen("review", "stats", tmp_path / "ratings.jsonl", *words)
    assert ran.exit_code == 0, ran.stderr
    (found,) = json.loads(ran.stdout)["score_tiers"]
    ranks = read_rank_table(tmp_path / "ranks.csv")
    means = json.loads((tmp_path / "results" / "statistics.json").read_text(encoding="utf-8"))["means"]
    overall = {each["item"]: each["mean"]["value"] for each in means if each["aspect"] == "overall"}
    assert overall["real"] > overall["good"] > overall["bad"]
    sheet = agreement_with_ranks(read_score_table(tmp_path / "scores.csv"), ranks, seed=0)
    assert sheet.num_judgements == found["num_judgements"] == 12
    for name, method in (("spearman", "spearman"), ("kendall", "kendall-b")):
        expected = sheet.agreements["agreement"][method]
        assert found[name]["value"] == pytest.approx(expected.correlation.value, abs=1e-9)
        assert found[f"pooled_{name}"] == pytest.approx(expected.pooled, abs=1e-9)
    tiers = [tier.mean.value for tier in sheet.agreements["agreement"]["spearman"].tiers]
    assert [tier["mean"]["value"] for tier in found["tiers"]] == pytest.approx(tiers, abs=1e-9)
