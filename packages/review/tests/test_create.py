import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_review.create import create_study, provenance_file
from medgen_review.study import REAL, Design, Study, StudyError, read_study
from PIL import Image

WriteSet = Callable[..., Path]
PROMPTS = ("one polyp", "a polyp", "two polyps", "a pair of polyps")


@pytest.fixture
def write_set(tmp_path: Path) -> WriteSet:
    """Write a data-set folder of noise; counts by prompt."""

    def write(
        name: str,
        counts: dict[str, int],
        *,
        seed: int = 0,
        size: tuple[int, int] = (40, 40),
        label: str | None = None,
        synthetic: bool = True,
    ) -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        generator = np.random.default_rng([seed, *name.encode()])
        rows = []
        for number, (prompt, count) in enumerate(counts.items()):
            for index in range(count):
                file_name = f"images/{number}-{index}.png"
                noise = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / file_name)
                text = (
                    {"generation": {"prompt": prompt, "seed": index}}
                    if synthetic
                    else {"text": [prompt, "seen"]}
                )
                rows.append({"file_name": file_name, "label": label, **text})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


@pytest.fixture
def folders(write_set: WriteSet) -> dict[str, Path]:
    counts = dict.fromkeys(PROMPTS, 4)
    return {
        "red": write_set("red", counts),
        "blue": write_set("blue", counts),
        REAL: write_set("truth", counts, synthetic=False),
    }


def create(folders: dict[str, Path], **changed: object) -> Study:
    out_file = folders[REAL].parent / "study.json"
    options: dict[str, object] = {
        "title": "Which?",
        "images_per_set": 3,
        "references_per_prompt": 2,
        **changed,
    }
    sets = {model: folder for model, folder in folders.items() if model != REAL}
    return create_study(sets, folders[REAL], options.pop("out_file", out_file), **options)  # type: ignore[arg-type]


def test_a_study_is_written_and_read_again_as_it_was_made(folders: dict[str, Path], tmp_path: Path) -> None:
    study = create(folders)
    assert read_study(tmp_path / "study.json") == study
    assert [prompt.text for prompt in study.prompts] == list(PROMPTS)
    assert study.models == ("red", "blue")
    assert [aspect.name for aspect in study.aspects] == [
        "Clinical Realism",
        "Prompt Faithfulness",
        "Detectability of Abnormality",
        "Color and Contrast",
        "Intra-set Diversity",
        "Confidence of Use",
    ]
    assert study.design.image_side == 40
    for prompt in study.prompts:
        assert len(study.reference_set(prompt.prompt_id).images) == 2
        for model in study.models:
            files = [image.file for image in study.image_set(prompt.prompt_id, model).images]
            assert len(set(files)) == 3
            number = PROMPTS.index(prompt.text)
            assert all(file.startswith(f"{model}/images/{number}-") for file in files)


def test_the_same_seed_makes_the_same_study_and_another_file_is_not_overwritten(
    folders: dict[str, Path],
) -> None:
    study = create(folders)
    assert create(folders) == study
    with pytest.raises(StudyError, match=r"study.json: is another study; ratings may depend on it"):
        create(folders, seed=1)
    other = create(folders, seed=1, out_file=folders[REAL].parent / "other.json")
    assert other.sets != study.sets  # another draw of three of four
    assert other.digest != study.digest


def test_references_have_the_text_of_the_prompt_where_the_real_set_has_it(
    folders: dict[str, Path], write_set: WriteSet, tmp_path: Path
) -> None:
    labelled = {
        "red": write_set("red2", dict.fromkeys(PROMPTS, 3), label="polyp"),
        REAL: write_set("real2", {"one polyp": 1, "other words": 1}, synthetic=False, label="polyp"),
    }
    more = write_set("real3", {"nothing to see": 3}, synthetic=False, label="normal")
    rows = [json.loads(line) for line in (more / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        row["file_name"] = f"more-{Path(row['file_name']).name}"
        (more / "images" / row["file_name"].removeprefix("more-")).rename(labelled[REAL] / row["file_name"])
    with (labelled[REAL] / "metadata.jsonl").open("a") as table:
        table.writelines(json.dumps(row) + "\n" for row in rows)
    study = create(labelled, references_per_prompt=4)
    provenance = json.loads(provenance_file(tmp_path / "study.json").read_text())
    assert provenance["references"][0] == {"prompt_id": "p000", "by_text": 1, "by_label": 1, "drawn": 2}
    assert provenance["references"][1] == {"prompt_id": "p001", "by_text": 0, "by_label": 2, "drawn": 2}
    assert provenance["study"] == study.digest
    first = {image.file for image in study.reference_set("p000").images}
    assert {"real2/images/0-0.png", "real2/images/1-0.png"} <= first
    assert sum("more-" in file for file in first) == 2


def test_hidden_real_images_are_not_those_shown_as_real(folders: dict[str, Path]) -> None:
    study = create(folders, design=Design(hidden_real=True), images_per_set=2)
    for prompt in study.prompts:
        hidden = {image.sha256 for image in study.image_set(prompt.prompt_id, REAL).images}
        shown = {image.sha256 for image in study.reference_set(prompt.prompt_id).images}
        assert len(hidden) == len(shown) == 2
        assert not hidden & shown


def test_an_alternating_list_has_originals_at_even_and_rephrased_at_odd_places(
    folders: dict[str, Path],
) -> None:
    study = create(folders, alternating=True)
    assert [prompt.kind for prompt in study.prompts] == ["original", "rephrased"] * 2
    assert [prompt.original_id for prompt in study.prompts] == [None, "p000", None, "p002"]


def test_a_prompt_list_chooses_the_prompts(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('prompt,kind,original\n"one  polyp",,\na polyp,rephrased,one polyp\n')
    study = create(folders, prompts=tmp_path / "list.csv")
    assert [(p.text, p.kind, p.original_id) for p in study.prompts] == [
        ("one polyp", "original", None),
        ("a polyp", "rephrased", "p000"),
    ]


def test_every_missing_image_is_listed(write_set: WriteSet, folders: dict[str, Path]) -> None:
    folders["green"] = write_set(
        "green", {"one polyp": 3, "a polyp": 1, "two polyps": 2, "a pair of polyps": 3}
    )
    with pytest.raises(StudyError, match="2 sets have too few images") as caught:
        create(folders)
    assert "green: 1 of 3 images for 'a polyp'" in str(caught.value)
    assert "green: 2 of 3 images for 'two polyps'" in str(caught.value)


def test_a_prompt_that_no_set_was_drawn_for_is_listed(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one polyp\nthree polyps\n")
    with pytest.raises(
        StudyError, match=r"(?s)2 sets have.*red: 0 of 3 images for 'three polyps'\n.*blue: 0 of 3"
    ):
        create(folders, prompts=tmp_path / "list.txt")


def test_sets_without_a_prompt_in_common_are_told(write_set: WriteSet, folders: dict[str, Path]) -> None:
    folders["green"] = write_set("green", {"something else": 3})
    with pytest.raises(StudyError, match="red, blue, green have no prompt in common"):
        create(folders)


def test_unreadable_and_missing_images_are_all_named(folders: dict[str, Path]) -> None:
    images = sorted((folders["red"] / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:100])
    images[4].write_bytes(b"not an image")
    images[8].unlink()
    with pytest.raises(StudyError, match="3 images cannot be shown") as caught:
        create(folders, images_per_set=4)
    for image, fault in ((images[0], "is damaged"), (images[4], "is no PNG"), (images[8], "cannot be read")):
        assert f"{image}: {fault}" in str(caught.value)


def test_folders_that_are_no_data_sets_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere: no such folder; give a data-set folder"):
        create({**folders, "red": tmp_path / "nowhere"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=r"metadata.jsonl: cannot be read .*is .*empty a data-set folder"):
        create({**folders, "red": tmp_path / "empty"})
    table = folders["red"] / "metadata.jsonl"
    rows = table.read_text()
    for line, message in (
        ("{", r"row 17: not JSON"),
        ('{"label": "x"}', r"row 17: file_name: Field required"),
        ('{"file_name": "../../etc/passwd"}', r"row 17: file_name: must be a path below the folder"),
        ('{"file_name": "/etc/passwd"}', r"row 17: file_name: must be a path below the folder"),
        ('{"file_name": "a.png", "generation": {}}', r"row 17: generation.prompt: Field required"),
    ):
        table.write_text(f"{rows}{line}\n")
        with pytest.raises(StudyError, match=message):
            create(folders)


def test_too_few_real_images_are_told(folders: dict[str, Path]) -> None:
    with pytest.raises(StudyError, match=r"truth: has 16 images, but each prompt needs 17"):
        create(folders, references_per_prompt=17)


def test_names_of_models_in_what_raters_read_and_unequal_forms_are_warned_of(
    write_set: WriteSet, folders: dict[str, Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folders["green"] = write_set("green", dict.fromkeys(PROMPTS, 3), size=(60, 50))
    copied = next(folders["red"].glob("images/0-*.png"))
    for index in range(4):
        (folders["blue"] / f"images/1-{index}.png").write_bytes(copied.read_bytes())
    with caplog.at_level(logging.WARNING):
        study = create(folders, title="Is RED better?", images_per_set=3, seed=3)
    assert "the title contains the name of the model 'red'" in caplog.text
    assert "'blue'" not in caplog.text
    assert (
        "long sides of the images differ between sources (red 40 to 40; blue 40 to 40; green 60 to 60"
        in caplog.text
    )
    assert "black bars would tell them apart" in caplog.text
    warnings = json.loads(provenance_file(tmp_path / "study.json").read_text())["warnings"]
    assert len(warnings) == len(caplog.records) >= 3
    assert study.design.image_side == 40


def test_a_study_without_flaws_has_no_warnings(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        create(folders)
    assert not caplog.records


def test_what_cannot_be_a_study_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="num_repeats must be at most the 4 prompts, got 5"):
        create(folders, design=Design(num_repeats=5))
    with pytest.raises(StudyError, match="at least one image per set"):
        create(folders, images_per_set=0)
    with pytest.raises(StudyError, match="needs a synthetic set"):
        create({REAL: folders[REAL]})
    with pytest.raises(StudyError, match="title: String should have at least 1 character"):
        create(folders, title="")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"study.json: cannot be written \(.*\); free space or choose"):
        create(folders, out_file=tmp_path / "file" / "study.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "x\ny\nx\n", "row 3: prompt: 'x' comes twice"),
        ("a.docx", "x", "is .txt, .csv or .jsonl, got .docx"),
        ("a.csv", "text\nx\n", "row 2: prompt: Field required"),
        ("a.csv", "prompt,kind\nx,new\n", "row 2: kind: Input should be 'original' or 'rephrased'"),
        ("a.csv", "prompt,kind,original\nx,rephrased,y\n", "row 2: original: 'y' is no prompt of this list"),
        ("a.csv", "prompt,original\nx,\ny,x\n", "row 3: kind: a prompt with an original must be 'rephrased'"),
        ("a.csv", "prompt\nx,y\n", r"row 2: \(surplus cell\): Extra inputs"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt"\n', "row 2: not JSON"),
        ("a.jsonl", '{"prompt": "  "}\n', "row 1: prompt: is empty"),
        ("a.jsonl", "[1]\n", "row 1: row: Input should be"),
    ],
)
def test_faults_of_a_prompt_list_are_named(
    folders: dict[str, Path], tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StudyError, match=message):
        create(folders, prompts=tmp_path / name)
    with pytest.raises(StudyError, match=r"none.txt: the prompt list cannot be read"):
        create(folders, prompts=tmp_path / "none.txt")


def test_a_list_that_cannot_alternate_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("one polyp\na polyp\ntwo polyps\n")
    with pytest.raises(StudyError, match=r"an even number of prompts .*got 3 prompts"):
        create(folders, prompts=tmp_path / "odd.txt", alternating=True)
