"""Images in a zip archive, read one at a time into memory; nothing is unpacked to disk.

A member is named by a path through the archive, `set.zip/polyps/001.png`, so that whatever takes image files
takes members too. Names that climb out, encrypted members, members that unpack to far more than they say and
names that occur twice are refused.
"""

import lzma
import zipfile
import zlib
from collections import Counter
from functools import lru_cache
from pathlib import Path, PurePosixPath

ARCHIVE_SUFFIX = ".zip"
MAX_MEMBER_BYTES = 512 * 1024**2
MAX_MEMBERS = 5_000_000
# Deflate cannot do better than about 1032 : 1; a picture that comes near is a bomb or a flat colour.
_MAX_RATIO = 1000
_SMALL_BYTES = 1024**2
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, OSError, EOFError, ValueError)


class ArchiveError(ValueError):
    """An archive, or a member of one, that cannot be read; says which and why."""


def is_archive(path: Path) -> bool:
    """Tell whether a path is a zip file by its suffix."""
    return path.suffix.lower() == ARCHIVE_SUFFIX and path.is_file()


def split_archive_path(path: Path) -> tuple[Path, str] | None:
    """Split `set.zip/polyps/001.png` into archive and member; None if no parent is a zip file."""
    for parent in path.parents:
        if is_archive(parent):
            return parent, path.relative_to(parent).as_posix()
    return None


def list_members(archive: Path) -> tuple[str, ...]:
    """List the files in an archive, sorted; hidden ones and those macOS adds are left out.

    Raises:
        ArchiveError: If it is no zip file, or a name is unsafe or occurs twice.
    """
    infos = [info for info in _open(archive).infolist() if not info.filename.endswith("/")]
    if len(infos) > MAX_MEMBERS:
        raise ArchiveError(f"{archive}: holds {len(infos):,} files, at most {MAX_MEMBERS:,} are allowed")
    names = [info.filename for info in infos]
    unsafe = [name for name in names if not is_safe_name(name)]
    if unsafe:
        raise ArchiveError(
            f"{archive}: member {unsafe[0]!r} has an absolute or climbing name; pack the files again from "
            "inside their folder"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ArchiveError(f"{archive}: member {twice[0]!r} is there twice; pack the files again")
    return tuple(
        sorted(
            name
            for name in names
            if not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
        )
    )


def read_member(archive: Path, name: str) -> bytes:
    """Read one member.

    Raises:
        ArchiveError: If it is missing, encrypted, too large, or damaged.
    """
    opened = _open(archive)
    where = f"{archive}/{name}"
    try:
        info = opened.getinfo(name)
    except KeyError:
        raise ArchiveError(f"{where}: no such member") from None
    if info.flag_bits & 1:
        raise ArchiveError(f"{where}: is encrypted; pack the files again without a password")
    ratio = info.file_size / max(1, info.compress_size)
    if info.file_size > MAX_MEMBER_BYTES or (info.file_size > _SMALL_BYTES and ratio > _MAX_RATIO):
        raise ArchiveError(
            f"{where}: would unpack from {info.compress_size:,} to {info.file_size:,} bytes; "
            "this is no ordinary picture"
        )
    try:
        with opened.open(info) as stream:
            # The stated size may be a lie; never take more than it.
            content = stream.read(info.file_size + 1)
    except _DAMAGE as error:
        raise ArchiveError(f"{where}: is damaged ({error}); copy or pack it again") from error
    if len(content) != info.file_size:
        raise ArchiveError(f"{where}: unpacks to another size than it states; it is damaged")
    return content


def is_safe_name(name: str) -> bool:
    """Tell whether a POSIX name stays below the folder it is joined to."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not PurePosixPath(name).is_absolute()
        and ".." not in parts
        and not any(character in name for character in "\\\0")
        and ":" not in parts[0]
    )


def _open(archive: Path) -> zipfile.ZipFile:
    try:
        status = archive.stat()
        return _open_version(archive, status.st_mtime_ns, status.st_size)
    except _DAMAGE as error:
        raise ArchiveError(f"{archive}: cannot be read as a zip file ({error}); copy it again") from error


@lru_cache(maxsize=8)
def _open_version(archive: Path, _mtime_ns: int, _size: int) -> zipfile.ZipFile:
    # The table of contents of a large archive takes longer to read than a picture.
    return zipfile.ZipFile(archive)
