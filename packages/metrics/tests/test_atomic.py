from pathlib import Path

import pytest
from medgen_metrics.atomic import write_atomic


def test_content_replaces_the_old_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "scores.json"
    write_atomic(file, b"a much longer first version")
    write_atomic(file, b"second")
    assert file.read_bytes() == b"second"
    assert list(file.parent.iterdir()) == [file]


def test_failed_rename_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
