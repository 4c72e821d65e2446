import json
from pathlib import Path

import pytest
from medgen_captioning.paraphrasing.sources import read_image_texts
from medgen_captioning.paraphrasing.strategies import ImageText
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

ONE = ImageText("a.jpg", "Generate an image with 1 polyp.")


@pytest.mark.parametrize(
    ("name", "content", "image"),
    [
        ("p.csv", "Prompt;Filename\nGenerate an image with 1 polyp.;a.jpg\n", "a.jpg"),
        ("p.csv", "Filename,Prompt,Paraphrase\na.jpg,Generate an image with 1 polyp.,One polyp.\n", "a.jpg"),
        ("p.tsv", "ID\tCaption\nROCO_1\tGenerate an image with 1 polyp.\n", "ROCO_1"),
        ("p.csv", "caption,count\nGenerate an image with 1 polyp.,12\n", "line000002"),
        ("p.txt", "\nGenerate an image with 1 polyp.\n", "line000002"),
    ],
)
def test_texts_are_found_in_every_layout(tmp_path: Path, name: str, content: str, image: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_image_texts(tmp_path / name) == ([ImageText(image, ONE.text)], [])


def test_captions_are_named_by_their_record(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    row = {"record_id": "r1", "text": "A polyp.", "method": "simple", "revision": "1", "seed": 0}
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "record_id": "r2", "text": ""}) + "\n")
    texts, problems = read_image_texts(file)
    assert texts == [ImageText("r1", "A polyp.")]
    assert [problem.code for problem in problems] == ["empty-cell"]


def test_all_texts_of_a_data_set_are_taken(phantoms: ImageDataset) -> None:
    texts, problems = read_image_texts(phantoms.root)
    assert problems == []
    assert texts == [ImageText(r.file_name, text) for r in phantoms.records for text in r.text]


def test_bad_rows_are_listed_and_the_others_taken(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("Prompt;Filename\n;a.jpg\nOne polyp.;b.jpg\nA tube.;\n")
    texts, problems = read_image_texts(file)
    assert texts == [ImageText("b.jpg", "One polyp.")]
    assert [(problem.row, problem.field) for problem in problems] == [(2, "Prompt"), (4, "Filename")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "Prompt|Filename\na|b\n", r"p\.csv, line 1: expected columns Prompt"),
        ("p.csv", "Text,File\na,b\n", r"p\.csv, line 1: expected columns Prompt"),
        ("p.txt", "\n \n", r"p\.txt: holds no text to paraphrase"),
        ("p.json", "{}", r"expected a data set folder, or a file that ends in \.csv"),
    ],
)
def test_a_source_of_another_kind_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_image_texts(tmp_path / name)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv"):
        read_image_texts(tmp_path / "none.csv")
