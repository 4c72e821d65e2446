import json
from collections.abc import Callable
from pathlib import Path

import pytest
from medgen_metrics.prompt_files import ObjectiveImages, PromptFileError, read_prompt_file

Write = Callable[..., list[Path]]


@pytest.fixture
def images(image_folder: Write) -> dict[str, list[Path]]:
    return {name: image_folder(name, 3, seed=seed) for seed, name in enumerate(("p1", "p2", "real"))}


def expected(images: dict[str, list[Path]]) -> tuple[ObjectiveImages, ...]:
    return (
        ObjectiveImages("polyp", tuple(images["p1"]), tuple(images["p2"]), tuple(images["real"])),
        ObjectiveImages("ulcer, left", (images["p2"][0], images["p2"][2])),
    )


def test_csv_and_json_say_the_same(images: dict[str, list[Path]], tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text(
        "note,objective,role,path\r\n,polyp,original,p1\r\n,polyp,real,real\r\n,polyp,rephrased,p2\r\n"
        'x,"ulcer, left",original,p2/000.png\r\n,"ulcer, left",original,p2/002.png\r\n',
        encoding="utf-8-sig",
    )
    listing = tmp_path / "prompts.json"
    objectives = [
        {"name": "polyp", "original": "p1", "rephrased": ["p2"], "real": "real"},
        {"name": "ulcer, left", "original": ["p2/000.png", "p2/002.png"]},
    ]
    listing.write_text(json.dumps(objectives))
    assert read_prompt_file(table) == read_prompt_file(listing) == expected(images)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"has no column objective, role, path; expected .* got no header"),
        ("objective,path\na,p1", r"has no column role; expected objective, role, path, got objective, path"),
        (
            "objective,role,path\na,synthetic,p1",
            r"line 2: role must be one of original, rephrased, real, got 's",
        ),
        ("objective,role,path\na,original,", r"line 2: objective and path must not be empty, got 'a', ''"),
        ("objective,role,path\na,original,p1\na,real,p9", r"line 3: .*p9: no such image, folder or archive"),
        ("objective,role,path\na,real,real", r"objective 'a' has no images of the role 'original'"),
        ("objective,role,path\n", r"holds no objectives"),
        ('objective,role,path\na,original,"p1', r"is not CSV"),
    ],
)
def test_wrong_row_is_named(images: dict[str, list[Path]], tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "prompts.csv").write_text(rows)
    with pytest.raises(PromptFileError, match=r"prompts\.csv.*" + message):
        read_prompt_file(tmp_path / "prompts.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "expected a list of objectives, got dict"),
        ('[{"name": "a", "images": "p1"}]', r"objective 0: expected an object with name, original"),
        (
            '[{"name": "a", "original": 3}]',
            r"objective 0\.original: expected a path or a list of paths, got 3",
        ),
        ('[{"name": "a", "original": "p1"}, {"name": "a", "original": "p1"}]', "the name 'a' is there twice"),
    ],
)
def test_wrong_objective_is_named(
    images: dict[str, list[Path]], tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(PromptFileError, match=message):
        read_prompt_file(tmp_path / "prompts.json")


def test_missing_file_and_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.csv: no such file"):
        read_prompt_file(tmp_path / "gone.csv")
    (tmp_path / "prompts.yaml").write_text("a: 1")
    with pytest.raises(PromptFileError, match=r"expected \.csv or \.json, got \.yaml"):
        read_prompt_file(tmp_path / "prompts.yaml")
    (tmp_path / "prompts.csv").write_bytes(b"objective,role,path\n\xff,original,p1")
    with pytest.raises(PromptFileError, match="is not UTF-8"):
        read_prompt_file(tmp_path / "prompts.csv")
