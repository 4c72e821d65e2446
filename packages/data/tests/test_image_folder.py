import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from medgen_data.image_folder import (
    ImageDataset,
    check_fingerprint,
    read_image_folder,
    write_card_and_rows,
)
from medgen_data.problems import DataError

Rows = list[dict[str, object]]


def edit_rows(root: Path, change: Callable[[Rows], Rows]) -> None:
    """Apply a function to the list of rows of a data set folder."""
    file = root / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in change(rows)), "utf-8")


def test_what_was_written_is_read(small_dataset: ImageDataset) -> None:
    assert read_image_folder(small_dataset.root) == small_dataset
    check_fingerprint(small_dataset)
    card = json.loads((small_dataset.root / "dataset.json").read_text("utf-8"))
    assert card["num_records"] == 6
    assert card["labels"] == ["normal mucosa", "polyps"]
    assert len(card["fingerprint"]) == 64


def test_selection_keeps_folder_and_card(small_dataset: ImageDataset) -> None:
    chosen = small_dataset.select(split="train", label="polyps")
    assert [record.record_id for record in chosen.records] == ["r3", "r5"]
    assert (chosen.root, chosen.card) == (small_dataset.root, small_dataset.card)
    assert chosen.image_file(chosen.records[0]) == small_dataset.root / "images/r3.png"
    assert small_dataset.select().records == small_dataset.records


def test_empty_selection_says_what_there_is(small_dataset: ImageDataset) -> None:
    with pytest.raises(DataError, match=r"no record with split validation.*'test': 2, 'train': 4"):
        small_dataset.select(split="validation")
    with pytest.raises(DataError, match=r"label 'ulcer'.*\['normal mucosa', 'polyps'\]"):
        small_dataset.select(label="ulcer")


def test_missing_folder_and_unfinished_folder_are_refused(small_dataset: ImageDataset) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; check the path"):
        read_image_folder(small_dataset.root / "nowhere")
    (small_dataset.root / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"not a finished data set: it has no dataset\.json"):
        read_image_folder(small_dataset.root)


def test_row_without_file_is_refused(small_dataset: ImageDataset) -> None:
    (small_dataset.root / "images/r2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 rows have no image file: images/r2\.png; restore"):
        read_image_folder(small_dataset.root)


def test_file_without_row_is_refused_but_hidden_and_other_files_are_not(small_dataset: ImageDataset) -> None:
    (small_dataset.root / "notes.txt").touch()
    (small_dataset.root / ".thumbnail.png").touch()
    read_image_folder(small_dataset.root)
    shutil.copy(small_dataset.root / "images/r2.png", small_dataset.root / "stray.PNG")
    with pytest.raises(DataError, match=r"1 image files have no row.*stray\.PNG; add rows or move"):
        read_image_folder(small_dataset.root)


def test_many_lost_files_are_counted_not_listed(small_dataset: ImageDataset) -> None:
    shutil.rmtree(small_dataset.root / "images")
    with pytest.raises(DataError, match=r"6 of 6 rows.*r0\.png.*r4\.png; and 1 more"):
        read_image_folder(small_dataset.root)


@pytest.mark.parametrize("field", ["record_id", "file_name"])
def test_duplicate_is_refused(small_dataset: ImageDataset, field: str) -> None:
    edit_rows(small_dataset.root, lambda rows: [*rows[:5], {**rows[5], field: rows[0][field]}])
    with pytest.raises(
        DataError, match=rf"field {field}: 1 values occur.*{small_dataset.records[0].record_id}"
    ):
        read_image_folder(small_dataset.root)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_name": "../r2.png"}, r"line 3, field file_name: .*leaves the data folder"),
        ({"record_id": "a/b"}, r"line 3, field record_id: record_id must be"),
        ({"split": "dev"}, r"line 3, field split: .*got 'dev'"),
        ({"clas": "x"}, r"line 3, field clas: Extra inputs"),
        ({"facts": {"n": None}}, r"line 3, field facts\.n"),
    ],
)
def test_malformed_row_is_refused_with_line_and_field(
    small_dataset: ImageDataset, change: dict[str, object], reason: str
) -> None:
    edit_rows(small_dataset.root, lambda rows: [*rows[:2], {**rows[2], **change}, *rows[3:]])
    with pytest.raises(DataError, match=r"metadata\.jsonl, " + reason):
        read_image_folder(small_dataset.root)


def test_cut_off_and_foreign_bytes_are_refused_with_the_line(small_dataset: ImageDataset) -> None:
    file = small_dataset.root / "metadata.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 6 is not JSON.*cut off"):
        read_image_folder(small_dataset.root)
    file.write_bytes(whole.replace(b"picture 1", b"pict\xfcre 1"))
    with pytest.raises(DataError, match=r"line 2: byte 0xfc is not UTF-8"):
        read_image_folder(small_dataset.root)


def test_card_that_tells_another_story_is_refused(small_dataset: ImageDataset) -> None:
    edit_rows(
        small_dataset.root,
        lambda rows: [{**row, "label": row["label"].replace("polyps", "ulcer")} for row in rows],
    )
    with pytest.raises(
        DataError, match=r"dataset\.json, field labels: the card says .*polyps.*gives .*ulcer"
    ):
        read_image_folder(small_dataset.root)


def test_link_that_leaves_the_folder_is_refused(small_dataset: ImageDataset, tmp_path: Path) -> None:
    image = small_dataset.root / "images/r1.png"
    shutil.move(image, tmp_path / "outside.png")
    image.symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match=r"images/r1\.png.*symbolic link"):
        read_image_folder(small_dataset.root)


def test_changed_pixels_are_found_by_the_fingerprint(small_dataset: ImageDataset) -> None:
    shutil.copy(small_dataset.root / "images/r0.png", small_dataset.root / "images/r1.png")
    changed = read_image_folder(small_dataset.root)
    with pytest.raises(DataError, match="changed since it was written"):
        check_fingerprint(changed)


def test_writing_checks_before_it_writes(tmp_path: Path, small_dataset: ImageDataset) -> None:
    about = {
        "name": "x",
        "modality": "x",
        "source": "x",
        "licence": "x",
        "synthetic": False,
        "split_seed": None,
    }
    with pytest.raises(DataError, match="needs at least one record"):
        write_card_and_rows(tmp_path / "new", records=[], **about)
    with pytest.raises(DataError, match="6 of 6 rows have no image file"):
        write_card_and_rows(tmp_path / "new", records=small_dataset.records, **about)
    assert not (tmp_path / "new").exists()
