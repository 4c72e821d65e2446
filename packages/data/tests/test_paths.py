from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from medgen_data.paths import check_relative_name, safe_join
from medgen_data.problems import DataError


@pytest.mark.parametrize("name", ["a.png", "images/a.png", "a b/ä.jpg", "..a/b..c", "console.png", "nulls/x"])
def test_ordinary_names_are_joined(tmp_path: Path, name: str) -> None:
    assert safe_join(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("../a.png", "leaves the data folder"),
        ("images/../../a.png", "leaves the data folder"),
        ("images//a.png", "empty or '.' part"),
        ("./a.png", "empty or '.' part"),
        ("a\0.png", "control character"),
        ("a\n.png", "control character"),
        ("..\\a.png", "backslash"),
        ("C:/a.png", "colon"),
        ("a.png:stream", "colon"),
        ("NUL", "Windows device name"),
        ("images/con.png", "Windows device name"),
        ("lpt1.tar.gz", "Windows device name"),
        ("images./a.png", "ends in a dot or a space"),
        ("a.png ", "ends in a dot or a space"),
    ],
)
def test_hostile_names_are_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"{reason}.*expected a relative path below the data folder"):
        safe_join(tmp_path, name)


def test_link_out_of_the_folder_is_refused_and_link_inside_is_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "a.png").touch()
    (root / "b.png").touch()
    (root / "out").symlink_to(outside)
    (root / "inside.png").symlink_to(root / "b.png")
    assert safe_join(root, "inside.png") == root / "inside.png"
    with pytest.raises(DataError, match=r"out/a.png.*symbolic link.*copy the file"):
        safe_join(root, "out/a.png")


@given(st.text(alphabet="ab./\\:\0 ~", max_size=12))
def test_no_accepted_name_resolves_outside(name: str) -> None:
    root = Path("/data/root")
    try:
        accepted = check_relative_name(name)
    except DataError:
        return
    assert (root / accepted).resolve().is_relative_to(root)
    assert (root / accepted).resolve() != root
