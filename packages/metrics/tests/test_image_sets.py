import io
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from medgen_metrics.image_decoding import ImageFileError, read_image_bytes
from medgen_metrics.image_sets import list_image_classes, list_image_files, list_image_rows
from PIL import Image


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=file_format, **options)
    return stream.getvalue()


def random_rgb(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_folder_listing_is_sorted_deep_and_takes_suffixes_in_any_case(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/notes.txt", ".hidden.png", ".cache/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [file.relative_to(tmp_path).as_posix() for file in list_image_files(tmp_path)]
    assert names == ["a/z.jpeg", "b.PNG"]


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images found"):
        list_image_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder of images"):
        list_image_files(tmp_path / "gone")


def write_set(folder: Path, names: list[str], rows: list[dict[str, object]] | None = None) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(Image.fromarray(random_rgb())))
    if rows is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(text)


def pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        for file in folder.rglob("*"):
            if file.is_file():
                opened.write(file, file.relative_to(folder).as_posix())


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_an_imagefolder_are_the_set_in_their_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, packed: bool
) -> None:
    rows = [{"file_name": "images/b.png", "text": "polyp"}, {"file_name": "a.png", "text": "normal"}]
    source = tmp_path / "set"
    write_set(source, ["a.png", "images/b.png", "c.png"], rows)
    if packed:
        pack(source, tmp_path / "set.zip")
        source = tmp_path / "set.zip"
    with caplog.at_level(logging.WARNING):
        listed = list_image_rows(source)
    assert [row.file for row in listed] == [source / "images/b.png", source / "a.png"]
    assert [row.fields for row in listed] == [{"text": "polyp"}, {"text": "normal"}]
    assert list_image_files(source) == (source / "images/b.png", source / "a.png")
    assert "1 images have no row in metadata.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r"metadata\.jsonl, line 2: is not JSON"),
        ('{"text": "x"}', r"line 2: expected an object with file_name"),
        ('["a.png"]', r"line 2: expected an object with file_name"),
        ('{"file_name": "../b.png"}', r"line 2: expected an object with file_name, a path below"),
        ('{"file_name": "gone.png"}', r"line 2: gone\.png is no image of"),
    ],
)
def test_malformed_row_is_named_by_its_line(tmp_path: Path, line: str, problem: str) -> None:
    write_set(tmp_path, ["a.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=problem):
        list_image_files(tmp_path)


def test_classes_come_from_a_field_or_from_folders(tmp_path: Path) -> None:
    names = ["polyps/a.png", "ulcers/b.png"]
    write_set(tmp_path, names)
    assert list_image_classes(tmp_path, "folder") == ("polyps", "ulcers")
    with pytest.raises(
        ValueError, match=r"a\.png: has no text in a field 'label' .*there are no fields, or 'folder'"
    ):
        list_image_classes(tmp_path, "label")
    rows: list[dict[str, object]] = [
        {"file_name": "ulcers/b.png", "label": "ulcer"},
        {"file_name": "polyps/a.png", "label": "polyp"},
    ]
    write_set(tmp_path, names, rows)
    assert list_image_classes(tmp_path, "label") == ("ulcer", "polyp")
    with pytest.raises(
        ValueError, match=r"b\.png: .* field 'organ' .*\(2 of 2 images\); there are label, or"
    ):
        list_image_classes(tmp_path, "organ")


def test_rows_without_content_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ["a.png"], [])
    with pytest.raises(ValueError, match=r"is empty|has no rows"):
        list_image_files(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no rows; delete it to take every image"):
        list_image_files(tmp_path)


def test_archive_lists_and_reads_as_the_folder_it_was_made_of(tmp_path: Path) -> None:
    write_set(tmp_path / "set", ["b.PNG", "a/z.png", "notes.txt", ".hidden.png"])
    pack(tmp_path / "set", tmp_path / "set.zip")
    members = list_image_files(tmp_path / "set.zip")
    assert members == (tmp_path / "set.zip" / "a/z.png", tmp_path / "set.zip" / "b.PNG")
    for member in members:
        original = tmp_path / "set" / member.relative_to(tmp_path / "set.zip")
        assert read_image_bytes(member) == original.read_bytes()


def test_damaged_or_missing_member_is_named_once(tmp_path: Path) -> None:
    write_set(tmp_path / "set", ["a.png"])
    pack(tmp_path / "set", tmp_path / "set.zip")
    missing = tmp_path / "set.zip" / "gone.png"
    with pytest.raises(ImageFileError, match=r"set\.zip/gone\.png: no such member") as caught:
        read_image_bytes(missing)
    assert caught.value.image_file == missing
    assert str(caught.value).count("gone.png") == 1
