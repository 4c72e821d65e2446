import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from medgen_metrics import image_archives
from medgen_metrics.image_archives import ArchiveError, list_members, read_member, split_archive_path


def write_zip(archive: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return archive


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_members_come_back_byte_for_byte(tmp_path: Path, compression: int) -> None:
    members = {"b.png": b"bee" * 500, "a/c.png": bytes(range(256))}
    archive = write_zip(tmp_path / "set.zip", members, compression=compression)
    assert list_members(archive) == ("a/c.png", "b.png")
    assert {name: read_member(archive, name) for name in members} == members


def test_hidden_members_and_folders_are_left_out(tmp_path: Path) -> None:
    members = dict.fromkeys(["a/", "a/b.png", ".c.png", "__MACOSX/a/._b.png", "a/.d/e.png"], b"")
    assert list_members(write_zip(tmp_path / "set.zip", members)) == ("a/b.png",)


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "a\\b.png", "C:/a.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "set.zip", {"ok.png": b"x", name: b"x"})
    with pytest.raises(ArchiveError, match=r"set\.zip: member .* has an absolute or climbing name"):
        list_members(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as opened:
        opened.writestr("a.png", b"1")
        opened.writestr("a.png", b"2")
    with pytest.raises(ArchiveError, match=r"member 'a\.png' is there twice"):
        list_members(tmp_path / "set.zip")


def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"flat.bmp": bytes(30_000_000)})
    with pytest.raises(ArchiveError, match=r"set\.zip/flat\.bmp: would unpack from .* to 30,000,000 bytes"):
        read_member(archive, "flat.bmp")


def test_large_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_archives, "MAX_MEMBER_BYTES", 10)
    archive = write_zip(tmp_path / "set.zip", {"a.png": b"0123456789a"})
    with pytest.raises(ArchiveError, match="would unpack"):
        read_member(archive, "a.png")


def test_member_that_lies_about_its_size_is_damaged(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a.png": bytes(range(256)) * 40})
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, directory + 24, 100)  # "uncompressed size" of the central directory
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.png: is damaged"):
        read_member(archive, "a.png")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_member_is_named(tmp_path: Path, compression: int) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a.png": bytes(range(256)) * 40}, compression=compression)
    content = bytearray(archive.read_bytes())
    content[50:60] = bytes(byte ^ 0xFF for byte in content[50:60])
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"set\.zip/a\.png: is damaged"):
        read_member(archive, "a.png")


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a.png": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match="is encrypted"):
        read_member(archive, "a.png")


def test_missing_member_and_broken_archive_are_named(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a.png": b"x"})
    with pytest.raises(ArchiveError, match=r"set\.zip/b\.png: no such member"):
        read_member(archive, "b.png")
    (tmp_path / "broken.zip").write_bytes(archive.read_bytes()[:40])
    with pytest.raises(ArchiveError, match=r"broken\.zip: cannot be read as a zip file"):
        list_members(tmp_path / "broken.zip")


def test_archive_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a.png": b"first"})
    assert read_member(archive, "a.png") == b"first"
    write_zip(archive, {"a.png": b"second"})
    assert read_member(archive, "a.png") == b"second"


def test_path_through_an_archive_is_split(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a/b.png": b"x"})
    assert split_archive_path(archive / "a" / "b.png") == (archive, "a/b.png")
    assert split_archive_path(tmp_path / "a" / "b.png") is None
    (tmp_path / "folder.zip").mkdir()
    assert split_archive_path(tmp_path / "folder.zip" / "b.png") is None


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_damaged_archives_are_read_or_refused_but_never_crash(tmp_path: Path, compression: int) -> None:
    members = {"a.png": bytes(range(256)) * 3, "b/c.png": b"picture" * 40}
    content = write_zip(tmp_path / "set.zip", members, compression=compression).read_bytes()
    generator = np.random.default_rng(compression)
    messages = []
    for index in range(200):
        broken = bytearray(content)
        for _ in range(generator.integers(1, 6)):
            # Half of the changes hit the table of contents at the end.
            reach = len(broken) if generator.random() < 0.5 else 180
            broken[len(broken) - 1 - int(generator.integers(reach))] = generator.integers(256)
        archive = tmp_path / f"{index}.zip"
        archive.write_bytes(broken)
        try:
            for name in list_members(archive):
                read_member(archive, name)
        except ArchiveError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(message.startswith(str(tmp_path)) for message in messages)


def test_member_without_a_name_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", {"a": b"x"})
    content = archive.read_bytes().replace(b"a", b"\0")
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match="has an absolute or climbing name"):
        list_members(archive)
