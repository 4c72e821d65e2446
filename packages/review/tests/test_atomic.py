import errno
import os
from pathlib import Path

import pytest
from medgen_review.atomic import write_bytes, write_text
from medgen_review.study import StudyError


def test_a_file_is_replaced_as_a_whole_and_folders_are_made(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file.json"
    write_text(file, "Größe")
    write_bytes(file, b"new", durable=False)
    assert file.read_bytes() == b"new"
    assert [each.name for each in file.parent.iterdir()] == ["file.json"]


def test_on_a_full_disk_the_old_file_stays_and_no_part_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ratings.jsonl"
    write_text(file, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StudyError, match=r"ratings.jsonl: cannot be written \(No space left on device\); free space"
    ):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
