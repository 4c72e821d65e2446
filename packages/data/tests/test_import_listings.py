"""What each importer finds in its layout, before any pixel is read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from medgen_data.importers.class_folders import list_class_folders
from medgen_data.importers.ham10000 import DIAGNOSES, list_ham10000
from medgen_data.importers.labelled_csv import list_labelled_csv
from medgen_data.importers.listing import Listing, make_record_ids, readable_label
from medgen_data.importers.medvqa_gi import list_medvqa_gi
from medgen_data.importers.tables import read_facts, read_table
from medgen_data.problems import DataError

WriteImage = Callable[..., Path]


def found(listing: Listing) -> set[tuple[str, int | None, str | None, str]]:
    return {(problem.file, problem.row, problem.field, problem.code) for problem in listing.problems}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


# Names and ids


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("dyed-lifted-polyps", "dyed lifted polyps"),
        ("sessile_polyp", "sessile polyp"),
        (" normal  z-line ", "normal z line"),
    ],
)
def test_label_becomes_readable(name: str, label: str) -> None:
    assert readable_label(name) == label


def test_ids_are_usable_unique_and_independent_of_the_rest() -> None:
    names = [
        "a/x.jpg",
        "a/x.png",
        "a-x.gif",
        "b/Ü 1.jpg",
        "CON.jpg",
        "con.png",
        "L" * 300 + ".jpg",
        "....jpg",
    ]
    ids = make_record_ids(names)
    assert len({record_id.lower() for record_id in ids}) == len(names)
    assert max(map(len, ids)) <= 128
    assert ids[3] == "b-1"
    assert make_record_ids(names[::-1]) == ids[::-1]


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table_is_read_with_its_delimiter(tmp_path: Path, delimiter: str) -> None:
    lines = [["Label", "FILE", "note"], ["polyp", "a.jpg", '"one, two; three\tfour"'], ["x", "b.jpg", ""]]
    text = "\r\n".join(delimiter.join(line) for line in lines)
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    table = read_table(tmp_path / "t.csv", ("file", "label"))
    assert table.columns == ("label", "file", "note")
    assert table.rows[0].cells == {"label": "polyp", "file": "a.jpg", "note": "one, two; three\tfour"}
    assert [row.line for row in table.rows] == [2, 3]


def test_facts_have_one_type_per_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "file,n,share,ok,code,mixed,hole\na,1,0.5,true,007,1,\nb,-2,1,False,1,x,3\n"
    )
    facts = read_facts(read_table(tmp_path / "t.csv", ("file",)), skip=("file",))
    assert facts == [
        {"n": 1, "share": 0.5, "ok": True, "code": "007", "mixed": "1"},
        {"n": -2, "share": 1.0, "ok": False, "code": "1", "mixed": "x", "hole": 3},
    ]
    assert type(facts[1]["share"]) is float


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"t\.csv is empty; expected a header line with file, label"),
        (b"name,class\na,b\n", r"line 1: expected columns file, label.*got 'name,class'"),
        (b"file,label\n", "has a header but no usable rows"),
        (b"file,label,label\na,b,c\n", "columns must be named, each once"),
        (b"file,label\na.jpg,poly\xe9p\n", r"t\.csv, line 2: byte 0xe9 is not UTF-8; save the file again"),
        (b'file,label\na.jpg,"open\nb.jpg,x\n', r"line \d: not valid csv .*check the quotation marks"),
    ],
)
def test_malformed_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_table(tmp_path / "t.csv", ("file", "label"))


def test_row_with_a_stray_delimiter_is_a_problem_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\na.jpg,x\nb.jpg,x,y\n\nc.jpg,z\n")
    table = read_table(tmp_path / "t.csv", ("file", "label"))
    assert [row.cells["file"] for row in table.rows] == ["a.jpg", "c.jpg"]
    assert [(problem.row, problem.code) for problem in table.problems] == [(3, "malformed-row")]


# Class folders


def test_class_folders_give_labels_and_list_what_is_odd(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *["dyed-lifted-polyps/a.jpg", "dyed-lifted-polyps/.hidden.jpg", "normal_z-line/a.jpg"],
        *["normal_z-line/notes.txt", "normal_z-line/deeper/b.jpg", "lost.png", "README.md"],
    )
    (tmp_path / "empty").mkdir()
    listing = list_class_folders(tmp_path)
    assert {(image.name, image.record_id, image.label) for image in listing.images} == {
        ("dyed-lifted-polyps/a.jpg", "dyed-lifted-polyps-a", "dyed lifted polyps"),
        ("normal_z-line/a.jpg", "normal_z-line-a", "normal z line"),
    }
    assert found(listing) == {
        ("empty", None, None, "empty-class"),
        ("normal_z-line/notes.txt", None, None, "not-an-image"),
        ("normal_z-line/deeper", None, None, "nested-folder"),
        ("lost.png", None, None, "no-class"),
    }
    with pytest.raises(DataError, match="has no folders; expected one folder per class"):
        list_class_folders(tmp_path / "empty")


def test_image_linked_from_outside_is_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, "outside.jpg", "source/a/b.jpg")
    (tmp_path / "source/a/c.jpg").symlink_to(tmp_path / "outside.jpg")
    listing = list_class_folders(tmp_path / "source")
    assert [image.name for image in listing.images] == ["a/b.jpg"]
    assert found(listing) == {("a/c.jpg", None, None, "unsafe-path")}


# Labelled csv


def test_labelled_csv_joins_rows_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "b.jpg", "images/stray.jpg", "../secret.jpg")
    (tmp_path / "labels.csv").write_text(
        "file,label,group_id,n_polyps,location\n"
        "a.jpg,sessile_polyp,p1,2,upper-left\n"
        "gone.jpg,polyp,p1,1,center\n"
        "../secret.jpg,polyp,p1,1,center\n"
        "b.jpg,polyp,,1,\n"
        "images/a.jpg,polyp,p2,1,center\n"
    )
    listing = list_labelled_csv(tmp_path)
    first, second = listing.images
    assert (first.name, first.label, first.group_id) == ("images/a.jpg", "sessile polyp", "p1")
    assert first.facts == {"n_polyps": 2, "location": "upper-left"}
    assert (second.name, second.group_id, second.facts) == ("b.jpg", None, {"n_polyps": 1})
    assert found(listing) == {
        ("labels.csv", 3, "file", "missing-file"),
        ("labels.csv", 4, "file", "unsafe-path"),
        ("labels.csv", 6, "file", "duplicate-id"),
        ("images/stray.jpg", None, None, "no-row"),
    }
    (duplicate,) = [problem for problem in listing.problems if problem.code == "duplicate-id"]
    assert "first in row 2, which is used" in duplicate.detail


def test_the_table_must_be_unmistakable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one csv table or one called labels\.csv, found none"):
        list_labelled_csv(tmp_path)
    touch(tmp_path, "one.csv", "two.csv")
    with pytest.raises(DataError, match=r"found one\.csv, two\.csv"):
        list_labelled_csv(tmp_path)


# HAM10000


def test_ham10000_in_two_parts(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *[f"HAM10000_images_part_1/ISIC_{n}.jpg" for n in range(4)],
        *[f"HAM10000_images_part_2/ISIC_{n}.jpg" for n in range(4, 9)],
    )
    rows = [f"HAM_{n // 2},ISIC_{n},{dx},histo,{40 + n}.0,male,back" for n, dx in enumerate(DIAGNOSES)]
    rows += ["HAM_9,ISIC_7,xyz,histo,,male,back", "HAM_9,ISIC_99,nv,histo,,male,back"]
    rows += ["HAM_9,ISIC_0,nv,histo,,male,back"]
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    (tmp_path / "HAM10000_metadata").write_text("\n".join([header, *rows]))
    listing = list_ham10000(tmp_path)
    assert [image.label for image in listing.images] == list(DIAGNOSES.values())
    assert [image.group_id for image in listing.images] == [f"HAM_{n // 2}" for n in range(7)]
    assert listing.images[5].name == "HAM10000_images_part_2/ISIC_5.jpg"
    assert listing.images[5].facts == {"dx_type": "histo", "age": 45.0, "sex": "male", "localization": "back"}
    assert found(listing) == {
        ("HAM10000_metadata", 9, "dx", "unknown-label"),
        ("HAM10000_metadata", 10, "image_id", "missing-file"),
        ("HAM10000_metadata", 11, "image_id", "duplicate-id"),
        ("HAM10000_images_part_2/ISIC_7.jpg", None, None, "no-row"),
        ("HAM10000_images_part_2/ISIC_8.jpg", None, None, "no-row"),
    }


def test_ham10000_without_table_or_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no HAM10000_metadata\.csv; point to the unpacked"):
        list_ham10000(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx\nL,I,nv\n")
    with pytest.raises(DataError, match="none of the image folders HAM10000_images"):
        list_ham10000(tmp_path)


# MedVQA-GI


def test_medvqa_collects_prompts_and_joins_labels(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.png", "images/c.jpg", "images/d.jpg")
    (tmp_path / "prompt-gt.csv").write_text(
        "Filename;Prompt\n"
        "a;Generate an image containing a polyp.\n"
        "b.png;Generate an image, with text.\n"
        "a.jpg;Generate an image with 1 polyp.\n"
        "a;Generate an image containing a polyp.\n"
        "zz;Generate an image.\n"
        "b;\n"
        "../b;Generate an image.\n"
        "d;Generate an image.\n"
    )
    without_labels = list_medvqa_gi(tmp_path)
    assert [(image.record_id, image.label, image.text) for image in without_labels.images] == [
        ("a", None, ("Generate an image containing a polyp.", "Generate an image with 1 polyp.")),
        ("b", None, ("Generate an image, with text.",)),
        ("d", None, ("Generate an image.",)),
    ]
    assert all(image.group_id == image.record_id for image in without_labels.images)
    assert found(without_labels) == {
        ("prompt-gt.csv", 6, "Filename", "missing-file"),
        ("prompt-gt.csv", 7, "Prompt", "empty-prompt"),
        ("prompt-gt.csv", 8, "Filename", "unsafe-path"),
        ("images/c.jpg", None, None, "no-row"),
    }
    (tmp_path / "labels.csv").write_text("file,label,n_polyps\na.jpg,polyp,1\nb.png,sessile_polyp,2\n")
    with_labels = list_medvqa_gi(tmp_path)
    assert [(image.label, image.facts) for image in with_labels.images] == [
        ("polyp", {"n_polyps": 1}),
        ("sessile polyp", {"n_polyps": 2}),
    ]
    assert found(with_labels) - found(without_labels) == {("prompt-gt.csv", 9, "Filename", "no-label")}


def test_medvqa_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompt-gt\.csv is missing"):
        list_medvqa_gi(tmp_path)
