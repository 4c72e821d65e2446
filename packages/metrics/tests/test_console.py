import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_metrics import evaluate
from medgen_metrics.console import main
from medgen_metrics.evaluate import score_image_files
from medgen_metrics.feature_files import read_features
from medgen_metrics.score import read_scores
from medgen_metrics.score_config import ScoreConfig
from PIL import Image

Write = Callable[..., list[Path]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command with a cache of its own; return exit code, stdout, stderr."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        code = main([*(str(word) for word in words), "--features-dir", str(tmp_path / "features")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def folders(image_folder: Write) -> tuple[Path, Path]:
    return tuple(
        image_folder(name, 12, seed=seed)[0].parent for seed, name in enumerate(("real", "synthetic"))
    )  # type: ignore[return-value]


@pytest.fixture
def audit_words(image_folder: Write) -> tuple[str, ...]:
    folders = {}
    for seed, (name, num_images) in enumerate((("train", 15), ("holdout", 39), ("synthetic", 10))):
        folders[name] = image_folder(name, num_images, seed=seed)
    for row in (2, 5):
        with Image.open(folders["train"][row]) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folders["synthetic"][row])
    words = [word for name, files in folders.items() for word in (f"--{name}", str(files[0].parent))]
    return ("audit", *words, "--extractor", "pixels:8", "--false-positive-rate", "0.05")


def test_score_prints_every_number_with_interval_size_and_extractor(
    run: Run, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    code, out, err = run("score", *folders, "--extractor", "random:0", "--out", tmp_path / "scores.json")
    assert (code, err) == (0, "")
    sheet = read_scores(tmp_path / "scores.json")
    table, warnings = out.split("\n\n")
    rows = {line.split()[0]: line.split() for line in table.splitlines()[1:]}
    assert list(rows) == [score.name for score in sheet.scores]
    for score in sheet.scores:
        value, low, word, high, *sizes, extractor = rows[score.name][1:]
        assert float(value) == pytest.approx(score.value, abs=1e-4)
        assert (float(low), float(high)) == pytest.approx(score.interval, abs=1e-4)
        assert (word, sizes, extractor) == ("to", ["12", "/", "12"], "random:0")
    lines = warnings.splitlines()
    assert "! the extractor has random weights: not comparable with any other figure" in lines
    assert any(line.startswith("! frechet: 12 images for 64 features") for line in lines)
    assert len(lines) == len(set(lines))


def test_score_as_json_is_the_sheet_of_the_library(
    run: Run, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("--extractor", "random:0", "--metrics", "kid,prdc", "--k", "2", "--seed", "3", "--json")
    code, out, err = run("score", *folders, *words)
    config = ScoreConfig(extractor="random:0", metrics=("kid", "prdc"), k=2, seed=3)
    real, synthetic = (sorted(folder.glob("*.png")) for folder in folders)
    expected = score_image_files(real, synthetic, config, features_dir=tmp_path / "other")
    assert (code, err) == (0, "")
    assert json.loads(out) == expected.to_json()


def test_extract_writes_features_that_can_be_read(
    run: Run, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    features_file = tmp_path / "real.safetensors"
    code, out, _ = run("extract", folders[0], "--extractor", "random:0", "--out", features_file, "--json")
    assert code == 0
    result = json.loads(out)
    features = read_features(features_file)
    assert (result["num_images"], result["dim"]) == features.features.shape == (12, 64)
    assert result["extractor"] == {
        "id": "random:0",
        "revision": None,
        "sha256": features.space.extractor_sha256,
    }
    code, out, _ = run("extract", folders[0], "--extractor", "random:0")
    assert out.startswith("12 images, 64 features each")
    assert "not comparable" in out


def test_audit_names_the_copies_and_writes_its_files(
    run: Run, audit_words: tuple[str, ...], tmp_path: Path
) -> None:
    code, out, err = run(
        *audit_words, "--out", tmp_path / "audit.json", "--pairs-sheet", tmp_path / "sheet.png"
    )
    assert (code, err) == (0, "")
    audit = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert out.startswith(f"copy rate  {audit['copy_rate']:.4f}, 95% ")
    assert f"{audit['num_flagged']} of 10 samples flagged, 0.5 expected by chance" in out
    names = [(Path(pair["synthetic_id"]).name, Path(pair["train_id"]).name) for pair in audit["flagged"][:2]]
    assert sorted(names) == [("002.png", "002.png"), ("005.png", "005.png")]
    for pair in audit["flagged"]:
        assert pair["synthetic_id"] in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 10 * 100


@pytest.mark.parametrize(("limit", "code"), [("0.1", 7), ("0.9", 0)])
def test_audit_over_its_limit_has_an_exit_code_and_still_a_result(
    run: Run, audit_words: tuple[str, ...], limit: str, code: int
) -> None:
    got, out, err = run(*audit_words, "--max-copy-rate", limit, "--json")
    assert got == code
    result = json.loads(out)
    assert result["limit_exceeded"] is (code == 7)
    assert result["copy_rate"] >= 0.2
    assert ("is over --max-copy-rate 0.1" in err) is (code == 7)


def test_limit_that_innocent_samples_exceed_is_warned_of(run: Run, audit_words: tuple[str, ...]) -> None:
    _, out, _ = run(*audit_words, "--max-copy-rate", "0.01")
    assert "! --max-copy-rate 0.01 is not above the false-positive rate 0.05" in out


def break_file(folder: Path) -> str:
    (folder / "003.png").write_bytes(b"broken")
    return "003.png: is not an image"


def empty_folder(folder: Path) -> str:
    for file in folder.iterdir():
        file.unlink()
    return "no images found"


def leave_one(folder: Path) -> str:
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    return "got"


def remove_folder(folder: Path) -> str:
    empty_folder(folder)
    folder.rmdir()
    return "expected a folder of images"


@pytest.mark.parametrize("damage", [break_file, empty_folder, leave_one, remove_folder])
def test_bad_images_are_code_3_in_one_line_without_traceback(
    run: Run, folders: tuple[Path, Path], damage: Callable[[Path], str]
) -> None:
    expected = damage(folders[1])
    code, out, err = run("score", *folders, "--extractor", "random:0", "--json")
    assert code == 3
    assert expected in err
    assert err.startswith("medgen-metrics: error: ")
    assert err.count("\n") == 1
    failure = json.loads(out)["error"]
    assert (failure["exit_code"], f"medgen-metrics: error: {failure['message']}\n") == (3, err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metrics", "beauty"), "metrics must be some of"),
        (("--k", "0"), "k and batch_size must be at least 1"),
        (("--extractor", "sense-of-taste"), "no extractor 'sense-of-taste'"),
        (("--out", "/dev/null/scores.json", "--extractor", "random:0"), "/dev/null"),
    ],
)
def test_wrong_words_are_code_2(
    run: Run, folders: tuple[Path, Path], words: tuple[str, ...], message: str
) -> None:
    code, _, err = run("score", *folders, *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--false-positive-rate", "0.01"), 3, "needs at least 99 held-out images, got 39"),
        (("--false-positive-rate", "2"), 2, "false_positive_rate must be above 0"),
        (("--max-copy-rate", "7"), 2, "--max-copy-rate must be 0 to 1"),
        (("--views", "flip-horizontal"), 2, "views must be 'identity'"),
        (("--train", "nowhere"), 3, "nowhere: expected a folder of images"),
    ],
)
def test_audit_refuses_what_it_cannot_do(
    run: Run, audit_words: tuple[str, ...], words: tuple[str, ...], code: int, message: str
) -> None:
    got, _, err = run(*audit_words, *words)
    assert (got, message in err, err.count("\n")) == (code, True, 1)


def test_unknown_words_are_refused_by_the_parser(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("score", "only-one")
    assert "the following arguments are required: SYNTHETIC" in capsys.readouterr().err


def test_missing_weights_are_code_5(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> None:
    code, _, err = run("score", *folders, "--weights", tmp_path / "none.safetensors")
    assert code == 5
    assert "none.safetensors: no such weight file" in err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
        (MemoryError(), 6, "out of memory"),
        (
            OSError(28, "No space left on device", "x.safetensors"),
            6,
            "No space left on device: x.safetensors",
        ),
        (ZeroDivisionError("oh"), 1, "unexpected ZeroDivisionError: oh; --debug shows"),
    ],
)
def test_what_goes_wrong_on_the_way_has_its_code(
    run: Run,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(evaluate, "score_image_files", fail)
    got, out, err = run("score", *folders)
    assert (got, out, message in err, err.count("\n")) == (code, "", True, 1)


def test_debug_shows_the_traceback(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metrics must be some of"):
        run("score", *folders, "--metrics", "beauty", "--debug")


def test_sixteen_bit_range_reaches_the_decoder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for index in range(2):
        pixels = np.full((20, 20), 1000 * index + 500, dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{index}.png")
    words = ("extract", tmp_path / "scans", "--extractor", "random:0", "--json", "--sixteen-bit-range")
    code, out, _ = run(*words, "0..4095")
    assert (code, "16-bit 0..4095" in json.loads(out)["preprocessing"]) == (0, True)
    code, out, _ = run(*words, "auto")
    assert (code, "16-bit 500..1500" in json.loads(out)["preprocessing"]) == (0, True)
    code, _, err = run(*words, "0..1000")
    assert code == 3
    assert "grey values 1500..1500 outside sixteen_bit_range 0..1000" in err


@pytest.mark.parametrize("text", ["4095", "9..3", "0..many", "half"])
def test_range_of_another_form_is_code_2(run: Run, folders: tuple[Path, Path], text: str) -> None:
    words = ("--extractor", "random:0", "--sixteen-bit-range", text)
    code, _, err = run("score", *folders, *words)
    assert code == 2
    assert f"must be full, auto or LOW..HIGH, e.g. 0..4095, got '{text}'" in err


def write_classes(folder: Path, names: str) -> None:
    files = sorted(folder.glob("*.png"))
    rows = [
        json.dumps({"file_name": file.name, "label": name}) for file, name in zip(files, names, strict=True)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def test_colour_per_class_is_a_table_of_its_own_and_what_is_missing_has_a_code(
    run: Run, folders: tuple[Path, Path]
) -> None:
    for folder in folders:
        write_classes(folder, "aaaaaabbbbbc")
    words = ("--extractor", "random:0", "--metrics", "kid,colour", "--classes", "label")
    code, out, err = run("score", *folders, *words)
    assert (code, err) == (4, "")
    overall, classes, warnings = out.split("\n\n")
    assert [line.split()[0] for line in overall.splitlines()[1:]][:2] == ["kid", "colour-mean-red"]
    assert [line.split()[:4] for line in classes.splitlines()[1:]] == [
        ["a", "6", "/", "6"],
        ["b", "5", "/", "5"],
    ]
    assert classes.split("\n")[0].split()[-1] == "saturation-distance"
    assert "! not computed: colour/c: needs 2 images in each set, got 1 real, 1 synthetic" in warnings
    code, out, _ = run("score", *folders, *words, "--json")
    result = json.loads(out)
    assert code == 4
    assert len(result["scores"]) == 1 + 3 * 8
    assert result["not_computed"] == ["colour/c: needs 2 images in each set, got 1 real, 1 synthetic"]


def test_classes_that_are_not_there_and_not_asked_for(run: Run, folders: tuple[Path, Path]) -> None:
    words = ("--extractor", "random:0", "--classes", "label")
    code, _, err = run("score", *folders, *words)
    assert (code, "--classes is for the metric colour" in err) == (2, True)
    code, _, err = run("score", *folders, *words, "--metrics", "colour")
    assert code == 3
    assert "000.png: has no text in a field 'label'" in err


def test_prompts_print_fidelity_beside_its_ceiling(run: Run, image_folder: Write, tmp_path: Path) -> None:
    rows = []
    for index, name in enumerate(("polyp", "ulcer")):
        for role, count in (("original", 3), ("rephrased", 3), ("real", 8)):
            folder = image_folder(f"{name}-{role}", count, seed=10 * index + count + len(role))[0].parent
            rows.append(f"{name},{role},{folder.name}")
    table = tmp_path / "prompts.csv"
    table.write_text("\n".join(("objective,role,path", *rows)))
    words = ("prompts", table, "--extractor", "random:0", "--seed", "2")
    code, out, err = run(*words, "--out", tmp_path / "scores.json")
    assert (code, err) == (0, "")
    names = [line.split()[0] for line in out.split("\n\n")[1].splitlines()[1:]]
    assert names == ["fidelity", "fidelity-ceiling", "agreement", "diversity", "fbd"]
    code, printed, _ = run(*words, "--json")
    assert json.loads(printed) == json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    code, out, _ = run(*words, "--protocol", "medvqa2025", "--json")
    result = json.loads(out)
    assert (code, [row["name"] for row in result["objectives"]]) == (0, ["polyp"])
    # Without references of one objective the other is still scored.
    table.write_text("\n".join(("objective,role,path", *rows[:-1])))
    code, out, _ = run(*words)
    assert code == 4
    assert "! not computed: objective ulcer: no real images" in out


def test_ranks_print_every_correlation_and_tier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    scores, ranks = ["prompt,item,fid,flat"], ["prompt,item,rank"]
    for prompt in range(6):
        values = generator.normal(size=3)
        places = values.argsort().argsort() + 1
        for item, value, rank in zip("abc", values, places, strict=True):
            scores.append(f"p{prompt},{item},{value},1")
            ranks.append(f"p{prompt},{item},{rank}")
    (tmp_path / "scores.csv").write_text("\n".join(scores))
    (tmp_path / "ranks.csv").write_text("\n".join(ranks))
    words = ["ranks", str(tmp_path / "scores.csv"), str(tmp_path / "ranks.csv")]
    assert main([*words, "--metrics", "fid", "--out", str(tmp_path / "agreement.json")]) == 0
    out = capsys.readouterr().out
    assert "18 judgement(s) of 1 rater(s) on 6 prompt(s)" in out
    assert "fid     spearman     1.0000             1.0000 to 1.0000" in out
    assert "fid     kendall-b    1.0000" in out
    result = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    assert [tier["num_judgements"] for tier in result["metrics"]["fid"]["tiers"]] == [6, 6, 6]
    assert main([*words, "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["not_computed"][0].startswith("flat: no prompt has two")
    (tmp_path / "ranks.csv").write_text("prompt,item,rank\np0,a,0\n")
    assert main(words) == 3
    assert "line 2: rank must be 1 (best) or more, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", [(), ("score",), ("audit",), ("prompts",), ("ranks",)])
def test_help_of_the_command_line_loads_no_torch(command: tuple[str, ...]) -> None:
    program = (
        "import sys\n"
        "from medgen_metrics.console import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'heavy import'\n"
    )
    words = [sys.executable, "-c", program, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "audit: more copies than --max-copy-rate allows" in done.stdout


def test_module_is_the_command(tmp_path: Path) -> None:
    words = ["score", str(tmp_path / "a"), str(tmp_path / "b"), "--extractor", "random:0"]
    done = subprocess.run(
        [sys.executable, "-m", "medgen_metrics", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr.startswith(f"medgen-metrics: error: {tmp_path / 'a'}: expected a folder of images")
    assert done.stderr.count("\n") == 1
