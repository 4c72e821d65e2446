import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from medgen_captioning.run import CaptionConfig, caption_dataset, check_caption
from medgen_data.captions import read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.phantoms import write_phantom_dataset
from medgen_data.problems import DataError
from pydantic import ValidationError

SIMPLE = CaptionConfig(method="simple")
MEASURED = CaptionConfig(method="measured")

RUN_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from medgen_captioning import CaptionConfig, caption_dataset
from medgen_data.image_folder import read_image_folder
caption_dataset(read_image_folder(Path(sys.argv[1])), Path(sys.argv[2]), CaptionConfig())
"""


def working_file(captions_file: Path) -> Path:
    return captions_file.with_name(f".{captions_file.name}.working")


def test_every_record_gets_its_caption_in_order(phantoms: ImageDataset, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    run = caption_dataset(
        phantoms,
        tmp_path / "captions.jsonl",
        MEASURED,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    rows = read_captions(tmp_path / "captions.jsonl")
    assert list(rows) == [record.record_id for record in phantoms.records]
    assert (run.num_written, run.num_reused, run.problems) == (160, 0, ())
    assert progress == [(number, 160) for number in range(1, 161)]
    for record in phantoms.records:
        row = rows[record.record_id]
        assert row.text.startswith(f"An endoscopic image of {record.label}")
        assert (row.method, row.model, row.seed, row.checks) == (
            "measured",
            None,
            0,
            ("opening", "max-words"),
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "captions.jsonl"]


def test_simple_and_empty_captions(phantoms: ImageDataset, tmp_path: Path) -> None:
    caption_dataset(phantoms, tmp_path / "simple.jsonl", CaptionConfig(method="simple", modality="CT"))
    caption_dataset(phantoms, tmp_path / "empty.jsonl", CaptionConfig(method="empty"))
    simple, empty = read_captions(tmp_path / "simple.jsonl"), read_captions(tmp_path / "empty.jsonl")
    assert {row.text for row in simple.values()} == {
        f"A CT image of {label}" for label in phantoms.card.labels
    }
    assert {row.text for row in empty.values()} == {""}
    assert {row.checks for row in empty.values()} == {()}


def test_two_runs_give_the_same_bytes(phantoms: ImageDataset, tmp_path: Path) -> None:
    some = phantoms.select(split="test")
    caption_dataset(some, tmp_path / "a.jsonl", MEASURED, seed=3)
    caption_dataset(some, tmp_path / "b.jsonl", MEASURED, seed=3)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_finished_run_is_not_repeated(phantoms: ImageDataset, tmp_path: Path) -> None:
    captions_file = tmp_path / "captions.jsonl"
    caption_dataset(phantoms, captions_file, SIMPLE)
    before = captions_file.stat()
    run = caption_dataset(phantoms, captions_file, SIMPLE)
    after = captions_file.stat()
    assert (run.num_written, run.num_reused) == (0, 160)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_killed_run_goes_on_without_loss_or_double(phantoms: ImageDataset, tmp_path: Path) -> None:
    captions_file = tmp_path / "captions.jsonl"
    whole = tmp_path / "whole.jsonl"
    caption_dataset(phantoms, whole, MEASURED)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_IN_ANOTHER_PROCESS, str(phantoms.root), str(captions_file)]
    )
    journal = working_file(captions_file)
    deadline = time.monotonic() + 30
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not captions_file.exists()
    num_saved = journal.read_bytes().count(b"\n")
    assert 20 <= num_saved < 160

    run = caption_dataset(phantoms, captions_file, MEASURED)
    assert (run.num_reused, run.num_written) == (num_saved, 160 - num_saved)
    assert captions_file.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_a_torn_last_line_is_made_again(phantoms: ImageDataset, tmp_path: Path) -> None:
    captions_file = tmp_path / "captions.jsonl"
    caption_dataset(phantoms, captions_file, SIMPLE)
    content = captions_file.read_bytes()
    lines = content.splitlines(keepends=True)
    captions_file.unlink()
    working_file(captions_file).write_bytes(b"".join(lines[:5]) + lines[5][:-9])
    run = caption_dataset(phantoms, captions_file, SIMPLE)
    assert (run.num_reused, run.num_written) == (5, 155)
    assert captions_file.read_bytes() == content


@pytest.mark.parametrize(
    ("config", "seed"),
    [(CaptionConfig(method="empty"), 0), (CaptionConfig(method="simple", max_words=50), 0), (SIMPLE, 1)],
)
def test_finished_captions_of_other_settings_are_refused(
    phantoms: ImageDataset, tmp_path: Path, config: CaptionConfig, seed: int
) -> None:
    captions_file = tmp_path / "captions.jsonl"
    caption_dataset(phantoms, captions_file, SIMPLE)
    before = captions_file.read_bytes()
    with pytest.raises(DataError, match="captions of other settings or another data set: method simple"):
        caption_dataset(phantoms, captions_file, config, seed=seed)
    assert captions_file.read_bytes() == before


def test_a_changed_data_set_is_refused(phantoms: ImageDataset, tmp_path: Path) -> None:
    other = write_phantom_dataset(tmp_path / "other", num_images=16, seed=9)
    caption_dataset(phantoms, tmp_path / "captions.jsonl", MEASURED)
    with pytest.raises(DataError, match="choose another file or delete this one"):
        caption_dataset(other, tmp_path / "captions.jsonl", MEASURED)


def test_a_working_file_of_other_settings_is_started_afresh(phantoms: ImageDataset, tmp_path: Path) -> None:
    captions_file = tmp_path / "captions.jsonl"
    caption_dataset(phantoms, captions_file, SIMPLE, seed=1)
    captions_file.rename(working_file(captions_file))
    run = caption_dataset(phantoms, captions_file, SIMPLE, seed=2)
    assert (run.num_reused, run.num_written) == (0, 160)
    assert {row.seed for row in read_captions(captions_file).values()} == {2}


def test_a_larger_selection_reuses_the_smaller_and_a_smaller_one_is_refused(
    phantoms: ImageDataset, tmp_path: Path
) -> None:
    captions_file = tmp_path / "captions.jsonl"
    test_set = phantoms.select(split="test")
    caption_dataset(test_set, captions_file, SIMPLE)
    run = caption_dataset(phantoms, captions_file, SIMPLE)
    assert (run.num_reused, run.num_written) == (len(test_set.records), 160 - len(test_set.records))
    assert list(read_captions(captions_file)) == [record.record_id for record in phantoms.records]
    with pytest.raises(DataError, match="128 records that are not selected now"):
        caption_dataset(test_set, captions_file, SIMPLE)


def test_a_bad_image_is_a_problem_and_is_tried_again(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "set", num_images=8, size=32)
    victim = dataset.image_file(dataset.records[3])
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2])
    captions_file = tmp_path / "captions.jsonl"
    run = caption_dataset(dataset, captions_file, MEASURED)
    assert (run.num_written, len(run.problems)) == (7, 1)
    assert (run.problems[0].file, run.problems[0].code) == (dataset.records[3].file_name, "truncated")
    assert dataset.records[3].record_id not in read_captions(captions_file)

    victim.write_bytes(good)
    run = caption_dataset(dataset, captions_file, MEASURED)
    assert (run.num_written, run.num_reused, run.problems) == (1, 7, ())
    assert list(read_captions(captions_file)) == [record.record_id for record in dataset.records]


def test_no_caption_at_all_is_an_error(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "set", num_images=2, size=32, test_fraction=0.0)
    for record in dataset.records:
        dataset.image_file(record).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 2 images could be captioned; the first: .*empty-file"):
        caption_dataset(dataset, tmp_path / "captions.jsonl", MEASURED)
    assert not (tmp_path / "captions.jsonl").exists()


def test_a_label_longer_than_the_limit_is_a_problem(phantoms: ImageDataset, tmp_path: Path) -> None:
    config = CaptionConfig(method="simple", max_words=6)
    run = caption_dataset(phantoms, tmp_path / "captions.jsonl", config)
    assert {problem.code for problem in run.problems} == {"bad-caption"}
    assert "at most 6 words, got 7; shorten the label" in run.problems[0].detail
    assert len(run.problems) == 40


def test_checks_name_what_failed() -> None:
    assert check_caption("An X image, wet", opening="An X image", max_words=4) == ("opening", "max-words")
    with pytest.raises(ValueError, match="must begin with 'An X image'"):
        check_caption("A picture", opening="An X image", max_words=4)
    with pytest.raises(ValueError, match="at most 3 words, got 4"):
        check_caption("An X image, wet", opening="An X image", max_words=3)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="beam_size"):
        CaptionConfig.model_validate({"method": "simple", "beam_size": 4})
    with pytest.raises(ValidationError, match="method"):
        CaptionConfig.model_validate({"method": "clever"})


def test_rows_keep_the_format_of_caption_files(phantoms: ImageDataset, tmp_path: Path) -> None:
    caption_dataset(phantoms.select(split="test"), tmp_path / "captions.jsonl", SIMPLE)
    row = json.loads((tmp_path / "captions.jsonl").read_text().splitlines()[0])
    assert set(row) == {"record_id", "text", "method", "model", "revision", "seed", "checks"}
    assert row["revision"].startswith("2+")
