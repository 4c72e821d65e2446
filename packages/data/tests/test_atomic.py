import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from medgen_data.atomic import (
    DiskFullError,
    flush_files,
    write_bytes_atomic,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from medgen_data.problems import DataError


def test_content_comes_back_and_parents_are_made(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    write_bytes_atomic(tmp_path / "a/b/c.bin", content)
    assert (tmp_path / "a/b/c.bin").read_bytes() == content
    write_json_atomic(tmp_path / "x.json", {"ä": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"ä": [1, None]}
    write_jsonl_atomic(tmp_path / "x.jsonl", [{"a": 1}, {"a": "line\nbreak"}])
    assert [json.loads(line) for line in (tmp_path / "x.jsonl").read_text("utf-8").splitlines()] == [
        {"a": 1},
        {"a": "line\nbreak"},
    ]


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "x.json", "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "x.json", float("nan"))
    assert (tmp_path / "x.json").read_text() == "old"


def test_new_file_has_the_permissions_the_user_asked_for(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text_atomic(tmp_path / "x", "")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, old: bytes | None
) -> None:
    file = tmp_path / "card.json"
    if old is not None:
        file.write_bytes(old)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError, match=r"card\.json: no room to write 3 bytes.*free space.*again"):
        write_bytes_atomic(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ([] if old is None else ["card.json"])
    assert old is None or file.read_bytes() == old


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_real_size_limit_in_the_middle_of_a_write_is_a_data_error(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    # The first write is cut at the limit, the second one fails: as on a disk that fills up.
    with (
        largest_file(4096),
        pytest.raises(DataError, match=r"a\.bin: no room to write 10000 bytes") as caught,
    ):
        write_bytes_atomic(file, bytes(10_000))
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert file.read_bytes() == b"old"


def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    write_bytes_atomic(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomic(tmp_path / "a", "new")
    assert list(tmp_path.iterdir()) == []


def test_reader_never_sees_half_a_file_while_the_writer_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "a"
    script = (
        "import sys, pathlib; from medgen_data.atomic import write_bytes_atomic\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "for number in range(10**9):\n"
        "    write_bytes_atomic(file, bytes([number % 256]) * 200_000)\n"
        "    if number == 3: print('going', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"going\n"
        for _ in range(20):
            content = file.read_bytes()
            assert len(content) == 200_000
            assert len(set(content)) == 1
        writer.kill()
    content = file.read_bytes()
    assert len(content) == 200_000
    assert len(set(content)) == 1


def test_flush_reports_a_full_disk_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        write_bytes_atomic(file, b"123", durable=False)
    flush_files(files)

    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"0\.png: no room to write 3 bytes"):
        flush_files(files)
