from pathlib import Path

import pytest
from medgen_captioning.caption_files import read_given_texts
from medgen_captioning.config import CaptionConfig, SimplifyConfig, TokenBudget
from medgen_captioning.run import caption_dataset, plan_dataset
from medgen_captioning.tiny.t5 import write_tiny_t5
from medgen_data.captions import read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError


def write_csv(file: Path, dataset: ImageDataset, header: str = "file_name,text", skip: int = 0) -> Path:
    rows = [
        f'{record.file_name},"A {record.label}, number {n}"'
        for n, record in enumerate(dataset.records[skip:])
    ]
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return file


def test_texts_of_a_table_are_taken_over_word_for_word(phantoms: ImageDataset, tmp_path: Path) -> None:
    config = CaptionConfig(method="file", file=write_csv(tmp_path / "given.csv", phantoms))
    assert plan_dataset(phantoms, tmp_path / "a.jsonl", config).num_settled == 160
    run = caption_dataset(phantoms, tmp_path / "a.jsonl", config)
    assert (run.num_written, run.problems) == (160, ())
    row = read_captions(tmp_path / "a.jsonl")[phantoms.records[3].record_id]
    assert row.text == f"A {phantoms.records[3].label}, number 3"
    assert (row.method, row.checks) == ("file", ("not-empty", "plain-text", "language", "max-words"))


def test_a_captions_file_and_the_metadata_of_an_image_folder_are_texts_too(
    phantoms: ImageDataset, tmp_path: Path
) -> None:
    caption_dataset(phantoms, tmp_path / "simple.jsonl", CaptionConfig(method="simple"))
    config = CaptionConfig(method="file", file=tmp_path / "simple.jsonl")
    caption_dataset(phantoms, tmp_path / "a.jsonl", config)
    texts = [row.text for row in read_captions(tmp_path / "simple.jsonl").values()]
    assert [row.text for row in read_captions(tmp_path / "a.jsonl").values()] == texts
    # The first text of file names alone, as Med-Art's metadata.csv has them.
    bare = tmp_path / "metadata.csv"
    bare.write_text(
        "file_name,text\n" + "".join(f"{Path(r.file_name).stem},pink\n" for r in phantoms.records)
    )
    assert read_given_texts(bare).text_of(phantoms.records[9]) == "pink"


def test_images_without_a_text_and_texts_that_fail_are_listed(phantoms: ImageDataset, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "given.csv", phantoms, skip=2)
    lines = file.read_text().splitlines()
    lines[1] = f"{phantoms.records[2].file_name},<b>bold</b> claim"
    lines[2] = f"{phantoms.records[3].file_name},a polyp, unquoted"
    lines[3] = ",nobody's text"
    file.write_text("\n".join(lines) + "\n")
    run = caption_dataset(phantoms, tmp_path / "a.jsonl", CaptionConfig(method="file", file=file))
    assert run.num_written == 155
    reasons = [str(problem) for problem in run.problems]
    assert reasons[0] == (
        "given.csv, row 3: has 3 cells, expected 2; quote cells that hold the delimiter [malformed-row]"
    )
    assert (
        reasons[1] == "given.csv, row 4, field file_name: names no image in file_name; fill it in [no-name]"
    )
    assert "has no text for record" in reasons[2]
    assert "plain-text: holds HTML: '<b>'" in reasons[4]
    assert len(reasons) == 7


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.csv",
            "file_name|text\na.png|pink\n",
            r"line 1: expected columns file_name, text.*got 'file_name\|text'",
        ),
        ("a.csv", "image,words\na.png,pink\n", "expected columns file_name, text"),
        ("a.csv", "file_name,text\na.png,pink\na.png,red\n", "line 3: a.png has another text in line 2"),
        ("a.jsonl", '{"file_name": "a.png"}\n', "line 1, field text: Field required"),
        ("a.jsonl", '{"text": "pink"}\n', "line 1: needs record_id or file_name beside text"),
        ("a.txt", "pink", "captions are taken from a .csv or a .jsonl file"),
    ],
)
def test_what_is_no_table_of_captions_is_refused(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason):
        read_given_texts(tmp_path / name)
    with pytest.raises(DataError, match="missing"):
        read_given_texts(tmp_path / "none.csv")


def test_another_content_of_the_file_is_another_revision(phantoms: ImageDataset, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "given.csv", phantoms)
    caption_dataset(phantoms, tmp_path / "a.jsonl", CaptionConfig(method="file", file=file))
    moved = file.rename(tmp_path / "moved.csv")
    again = caption_dataset(phantoms, tmp_path / "a.jsonl", CaptionConfig(method="file", file=moved))
    assert again.num_reused == 160
    moved.write_text(moved.read_text().replace("number 3", "number three"))
    with pytest.raises(DataError, match="captions of other settings"):
        caption_dataset(phantoms, tmp_path / "a.jsonl", CaptionConfig(method="file", file=moved))


def test_texts_over_the_budget_go_through_t5_and_others_do_not(
    phantoms: ImageDataset, tmp_path: Path
) -> None:
    t5 = write_tiny_t5(tmp_path / "t5")
    some = ImageDataset(phantoms.root, phantoms.card, phantoms.records[:4])
    file = tmp_path / "given.csv"
    texts = ["pink and round", "the red area shows the surface texture with pink mucosa of a polyp", "a", "b"]
    file.write_text(
        "record_id,text\n" + "".join(f"{r.record_id},{t}\n" for r, t in zip(some.records, texts, strict=True))
    )
    config = CaptionConfig(
        method="file",
        file=file,
        budget=TokenBudget(tokenizer=str(t5), max_tokens=16),
        simplify=SimplifyConfig(model=str(t5), min_tokens=2, max_tokens=8),
    )
    assert not (tmp_path / "caption-cache.sqlite").exists()
    run = caption_dataset(some, tmp_path / "a.jsonl", config)
    rows = list(read_captions(tmp_path / "a.jsonl").values())
    assert [row.text for row in rows if "simplified" not in row.checks] == ["pink and round", "a", "b"]
    # What random weights make of the long one is short, or it is listed with the reason.
    assert run.num_written + len(run.problems) == 4
    assert all("max-tokens" in row.checks for row in rows)
