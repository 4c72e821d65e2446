from collections.abc import Sequence
from pathlib import Path

import pytest
from medgen_captioning.paraphrasing.grammar import grammar_paraphrases
from medgen_captioning.paraphrasing.paraphrase_files import (
    ParaphrasePlan,
    paraphrase_rows,
    plan_paraphrases,
    read_paraphrases,
    write_paraphrases,
)
from medgen_captioning.paraphrasing.strategies import ImageText, ParaphraseRow
from medgen_data.jsonl import iterate_jsonl
from medgen_data.problems import DataError, Problem

PROMPTS = (
    "Generate an image with 1 polyp.",
    "Generate an image with no polyps.",
    "Generate an image with an an abnormality located in the center and lower-left.",
    "Generate an image containing biopsy forcepsandtube.",
)
IMAGES = [ImageText(f"{index}.jpg", PROMPTS[index % 4]) for index in range(12)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [
        ParaphraseRow("a,b.jpg", "Generate an image with 1 polyp.", "An image with one polyp."),
        ParaphraseRow(
            "c.jpg", 'Generate an image with an abnormality, "pink".', "A pink abnormality, seen here."
        ),
    ]
    write_paraphrases(tmp_path / "train.csv", rows)
    assert read_paraphrases(tmp_path / "train.csv") == (rows, [])
    assert (tmp_path / "train.csv").read_text().splitlines()[0] == "Filename,Prompt,Paraphrase"


def test_other_delimiters_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("Filename;Prompt;Paraphrase\n1.jpg;Generate an image with 1 polyp.;One polyp.\n")
    assert read_paraphrases(file)[0] == [
        ParaphraseRow("1.jpg", "Generate an image with 1 polyp.", "One polyp.")
    ]


def test_a_wrong_delimiter_names_the_file_and_what_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("Filename|Prompt|Paraphrase\n1.jpg|a|b\n")
    with pytest.raises(DataError, match=r"p\.csv, line 1: expected columns Filename, Prompt, Paraphrase"):
        read_paraphrases(file)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("Filename,Prompt\n1.jpg,a\n")
    with pytest.raises(DataError, match=r"p\.csv, line 1: expected columns .*Paraphrase"):
        read_paraphrases(file)


def test_bad_rows_are_listed_and_good_ones_read(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text(
        "Filename,Prompt,Paraphrase\n"
        "1.jpg,Generate an image with 1 polyp.,One polyp.\n"
        "2.jpg,Generate an image with 1 polyp.,Two polyps.\n"
        "3.jpg,Generate an image with 1 polyp.,\n"
        "4.jpg,Generate, an image,with 1 polyp.,One polyp.\n"
    )
    rows, problems = read_paraphrases(file)
    assert [row.file_name for row in rows] == ["1.jpg"]
    assert {(problem.row, problem.code) for problem in problems} == {
        (3, "other-facts"),
        (4, "empty-cell"),
        (5, "malformed-row"),
    }
    assert "count is 1 in the original, 2 in the rewrite" in next(p.detail for p in problems if p.row == 3)
    unjudged, _ = read_paraphrases(file, judged=False)
    assert [row.file_name for row in unjudged] == ["1.jpg", "2.jpg"]


def test_every_image_gets_a_paraphrase_of_its_prompt(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    run = paraphrase_rows(IMAGES, grammar_paraphrases, file, method="grammar", seed=0)
    rows, problems = read_paraphrases(file)
    assert (run.num_written, run.num_reused, run.problems, problems) == (4, 0, (), [])
    assert [(row.file_name, row.prompt) for row in rows] == [
        (image.file_name, image.text) for image in IMAGES
    ]
    assert len({row.paraphrase for row in rows}) == len(IMAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.csv", "train.rejected.jsonl"]


class InterruptedHereError(Exception):
    pass


class Counting:
    """Writes by the grammar, remembers what it was asked for, and stops when told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._stop_after = stop_after

    def __call__(self, prompts: Sequence[str], num: int, seed: int) -> list[list[str]]:
        if self._stop_after is not None and len(self.asked) >= self._stop_after:
            raise InterruptedHereError
        self.asked += prompts
        return grammar_paraphrases(prompts, num, seed)


def test_an_interrupted_run_goes_on_and_asks_for_no_prompt_twice(tmp_path: Path) -> None:
    first, second = Counting(stop_after=2), Counting()
    with pytest.raises(InterruptedHereError):
        paraphrase_rows(IMAGES, first, tmp_path / "a.csv", method="g", seed=1, batch_size=1)
    assert not (tmp_path / "a.csv").exists()
    plan = plan_paraphrases(IMAGES, tmp_path / "a.csv", method="g", seed=1)
    assert plan == ParaphrasePlan(num_images=12, num_prompts=4, num_done=2, num_wanted=6)
    # A kill may cut the last line.
    with (tmp_path / ".a.csv.working").open("ab") as working:
        working.write(b'{"prompt": "Gener')
    run = paraphrase_rows(IMAGES, second, tmp_path / "a.csv", method="g", seed=1, batch_size=1)
    assert (run.num_reused, run.num_written) == (2, 2)
    assert sorted(first.asked + second.asked) == sorted(PROMPTS)
    paraphrase_rows(IMAGES, grammar_paraphrases, tmp_path / "b.csv", method="g", seed=1)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_prompt_with_more_images_than_before_is_asked_again(tmp_path: Path) -> None:
    again = Counting()
    with pytest.raises(InterruptedHereError):
        paraphrase_rows(IMAGES, Counting(stop_after=2), tmp_path / "a.csv", method="g", seed=1, batch_size=1)
    more = [*IMAGES, ImageText("12.jpg", PROMPTS[0])]
    run = paraphrase_rows(more, again, tmp_path / "a.csv", method="g", seed=1, batch_size=1)
    assert (run.num_reused, run.num_written) == (1, 3)
    assert PROMPTS[0] in again.asked


@pytest.mark.parametrize(("method", "seed"), [("other", 1), ("g", 2)])
def test_work_of_other_settings_is_not_mixed_in(tmp_path: Path, method: str, seed: int) -> None:
    with pytest.raises(InterruptedHereError):
        paraphrase_rows(IMAGES, Counting(stop_after=2), tmp_path / "a.csv", method="g", seed=1, batch_size=1)
    run = paraphrase_rows(IMAGES, grammar_paraphrases, tmp_path / "a.csv", method=method, seed=seed)
    assert (run.num_reused, run.num_written) == (0, 4)


def test_rejected_paraphrases_are_kept_with_their_reasons(tmp_path: Path) -> None:
    def wrong(prompts: Sequence[str], num: int, seed: int) -> list[list[str]]:
        return [["Create an image of one polyp."] for _ in prompts]

    run = paraphrase_rows(IMAGES, wrong, tmp_path / "a.csv", method="wrong", seed=0)
    listed = [problem for _, problem in iterate_jsonl(tmp_path / "a.rejected.jsonl", Problem)]
    assert tuple(listed) == run.problems
    assert [problem.code for problem in listed].count("no-paraphrase") == 3
    assert "polyp is stated as absent in the original" in " ".join(problem.detail for problem in listed)
    assert {row.prompt for row in read_paraphrases(tmp_path / "a.csv")[0]} == {PROMPTS[0]}


def nothing(prompts: Sequence[str], num: int, seed: int) -> list[list[str]]:
    return [[] for _ in prompts]


def test_prompts_that_got_nothing_are_asked_again(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 4 prompts"):
        paraphrase_rows(IMAGES, nothing, tmp_path / "a.csv", method="m", seed=0)
    run = paraphrase_rows(IMAGES, grammar_paraphrases, tmp_path / "a.csv", method="m", seed=0)
    assert (run.num_reused, run.num_written) == (0, 4)


def test_nothing_usable_is_an_error_and_writes_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 4 prompts could be paraphrased.*no paraphrase of"):
        paraphrase_rows(IMAGES, nothing, tmp_path / "a.csv", method="m", seed=0)
    assert not (tmp_path / "a.csv").exists()
