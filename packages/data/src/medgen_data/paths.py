"""The one gate for every path that was read from a file: nothing leaves the data folder."""

from pathlib import Path

from medgen_data.problems import DataError

_DEVICE_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)


def check_relative_name(name: str) -> str:
    """Return a POSIX path below a folder unchanged, or refuse it.

    Names that only Windows would misread are refused everywhere, so a data set that is
    accepted on one machine is accepted on all.

    Raises:
        DataError: If the name is empty, absolute, has `.`, `..` or empty parts, control characters,
            a backslash, a colon, a part ending in a dot or space, or a Windows device name.
    """
    reason = _reason_to_refuse(name)
    if reason is not None:
        raise DataError(
            f"path {name!r} {reason}; expected a relative path below the data folder, like 'images/a.png'"
        )
    return name


def safe_join(root: Path, name: str) -> Path:
    """Join a name that was read from a file to a folder, or refuse it.

    Args:
        root: Folder that must not be left.
        name: POSIX path below `root`. The file need not exist.

    Raises:
        DataError: If `check_relative_name` refuses the name, or a symbolic link leads out of `root`.
    """
    joined = root / check_relative_name(name)
    if not joined.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"path {name!r} leads out of {root} through a symbolic link; "
            "copy the file into the data folder instead of linking it"
        )
    return joined


def _reason_to_refuse(name: str) -> str | None:
    if not name:
        return "is empty"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "has a control character"
    if "\\" in name or ":" in name:
        return "has a backslash or a colon"
    if name.startswith("/"):
        return "is absolute"
    for part in name.split("/"):
        if part == "..":
            return "leaves the data folder"
        if part in ("", "."):
            return "has an empty or '.' part"
        if part.endswith((".", " ")):
            return f"has a part that ends in a dot or a space ({part!r})"
        if part.split(".")[0].rstrip().lower() in _DEVICE_NAMES:
            return f"has a Windows device name ({part!r})"
    return None
