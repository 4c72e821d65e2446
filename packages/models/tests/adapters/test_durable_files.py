from pathlib import Path

import pytest
from medgen_models.adapters.durable_files import flush_folder, write_flushed, write_replacing


def test_file_is_replaced_as_a_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "weights"
    write_replacing(file, b"first")
    write_replacing(file, b"second")
    assert file.read_bytes() == b"second"

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_replacing(file, b"third")
    assert [(path.name, path.read_bytes()) for path in file.parent.iterdir()] == [("weights", b"second")]


def test_content_and_folder_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", flushed.append)
    write_flushed(tmp_path / "a" / "b", b"content")
    flush_folder(tmp_path / "a")
    assert len(flushed) == 2
    assert (tmp_path / "a" / "b").read_bytes() == b"content"
