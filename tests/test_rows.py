"""Every row of the papers on its miniature, through the command line: train, save, load, sample; stop and go on."""

import contextlib
import io
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from medgen_cli.main import run_command_line
from medgen_cli.plan import plan_prompts
from medgen_cli.progress import ProgressLine
from medgen_cli.stages.generators import GeneratorOptions
from medgen_cli.stages.synthesis import SyntheticSetCard, draw_images
from medgen_data.image_folder import check_fingerprint, read_image_folder
from medgen_models import SamplingConfig, model_sha256
from medgen_models.adapters import read_adapter_record
from medgen_models.tiny import write_tiny_text_encoder
from medgen_models.tiny.flux import write_tiny_flux
from medgen_models.tiny.hunyuan_dit import write_tiny_hunyuan_dit
from medgen_models.tiny.kandinsky3 import write_tiny_kandinsky3
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_decoder, write_tiny_kandinsky22_prior
from medgen_models.tiny.pixart import write_tiny_pixart
from medgen_models.tiny.sdxl import write_tiny_sdxl
from medgen_models.tiny.stable_diffusion import write_tiny_sd

PROMPTS = ("an endoscopic image of polyps", "an endoscopic image of normal mucosa")
HLDF = {"every_steps": 2, "num_inference_steps": 2, "guidance_scale": 2.0}
PRIOR, DECODER = "kandinsky22-prior", "kandinsky22-decoder"


@dataclass(frozen=True)
class Row:
    """One adapted family: its miniature, and what of the recipe is its own."""

    write_base: Callable[[Path], Path]
    adapter: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ("denoiser",)
    train: dict[str, Any] = field(default_factory=dict)
    solver: str = "dpm-solver++"


ROWS = {
    "pixart": Row(
        write_tiny_pixart,
        {"targets": "authors", "text_encoder": True},
        ("denoiser", "text_encoder"),
        {"hldf": HLDF},
    ),
    "sd": Row(write_tiny_sd, {"text_encoder": True}, ("denoiser", "text_encoder"), {"hldf": HLDF}),
    "sdxl": Row(
        write_tiny_sdxl,
        {"text_encoder": True},
        ("denoiser", "text_encoder", "text_encoder_2"),
        {"hldf": HLDF},
    ),
    "hunyuan-dit": Row(write_tiny_hunyuan_dit, train={"hldf": HLDF}),
    PRIOR: Row(write_tiny_kandinsky22_prior, train={"prior_noise_schedule": "authors"}),
    DECODER: Row(write_tiny_kandinsky22_decoder, train={"hldf": HLDF}),
    "kandinsky3": Row(write_tiny_kandinsky3, train={"hldf": HLDF, "adam_eps": 1e-12}),
    "flux": Row(write_tiny_flux, {"targets": "authors"}, train={"hldf": HLDF}, solver="euler"),
}


@dataclass(frozen=True)
class Ran:
    exit_code: int
    stdout: str
    stderr: str


def medgen(*arguments: object) -> Ran:
    """Run a command line in this process: a new one would import for ten seconds."""
    torch.set_num_threads(1)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command_line([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    phantoms = medgen(
        "data", "--kind", "phantoms", "--num-images", 8, "--size", 32, "--out", folder / "images"
    )
    assert phantoms.exit_code == 0, phantoms.stderr
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return folder


def base_of(place: Path, family: str) -> Path:
    base = place / "bases" / family
    return base if base.is_dir() else ROWS[family].write_base(base)


def recipe_of(place: Path, family: str, name: str, **adapter: Any) -> Path:
    """Write the recipe of a row; the decoder's names the prior, which brings the image encoder."""
    row = ROWS[family]
    prior = {"prior_base": str(base_of(place, PRIOR))} if family == DECODER else {}
    train = {
        "family": family,
        "base": str(base_of(place, family)),
        "adapter": {"rank": 2, **row.adapter, **adapter},
        "num_steps": 4,
        "batch_size": 2,
        "learning_rate": 0.02,
        "checkpoint_every": 2,
        "log_every": 1,
        **row.train,
        **prior,
    }
    recipe = place / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump({"seed": 1, "train": train}), encoding="utf-8")
    return recipe


def train(place: Path, recipe: Path, *more: object) -> Ran:
    out = place / "trained" / recipe.stem
    return medgen("train", recipe, "--data", place / "images", "--out", out, "--device", "cpu", *more)


@pytest.fixture(scope="module")
def adapters(place: Path) -> Callable[[str], Path]:
    """Train a row once, and return its adapter folder."""

    def trained(family: str) -> Path:
        adapter_dir = place / "trained" / family / "adapter"
        if not adapter_dir.is_dir():
            ran = train(place, recipe_of(place, family, family))
            assert ran.exit_code == 0, ran.stderr
        return adapter_dir

    return trained


def sample(place: Path, generator: Path, name: str, *more: object, solver: str = "dpm-solver++") -> Path:
    out = place / "drawn" / name
    common = ["sample", generator, "--prompts", place / "prompts.txt", "--out", out, "--device", "cpu"]
    ran = medgen(*common, "--num-inference-steps", 2, "--batch-size", 2, "--solver", solver, *more)
    assert ran.exit_code == 0, ran.stderr
    return out


def pixels(dataset_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (dataset_dir / "images").iterdir()}


def draw_from_base(place: Path, adapter_dir: Path, family: str) -> Path:
    """Draw the images of `sample` from the base alone."""
    out = place / "drawn" / f"{family}-base"
    config = SamplingConfig(num_inference_steps=2, batch_size=2, solver=ROWS[family].solver)  # type: ignore[arg-type]
    decoder = str(base_of(place, DECODER)) if family == PRIOR else None
    draw_images(
        adapter_dir,
        plan_prompts(PROMPTS, seed=0),
        config,
        out,
        card=SyntheticSetCard("base", "endoscopic", "a test", "none"),
        device="cpu",
        options=GeneratorOptions(decoder=decoder, without_adapter=True),
    )
    return out


@pytest.mark.parametrize("family", ROWS)
def test_row_trains_saves_loads_and_samples(
    place: Path, adapters: Callable[[str], Path], family: str
) -> None:
    row, adapter_dir = ROWS[family], adapters(family)
    record = read_adapter_record(adapter_dir)
    assert (record.family, tuple(record.parts)) == (family, row.parts)
    assert record.base_sha256 == model_sha256(base_of(place, family))
    rows = [json.loads(line) for line in (adapter_dir.parent / "train_log.jsonl").read_text().splitlines()]
    assert [each["step"] for each in rows] == [1, 2, 3, 4]
    assert [each["step"] for each in rows if "colour_loss" in each] == ([2, 4] if "hldf" in row.train else [])

    decoder = ["--decoder", base_of(place, DECODER)] if family == PRIOR else []
    drawn = sample(place, adapter_dir, family, *decoder, solver=row.solver)
    dataset = read_image_folder(drawn)
    check_fingerprint(dataset)
    assert [each.text for each in dataset.records] == [(prompt,) for prompt in PROMPTS]
    for each in dataset.records:
        assert each.generation is not None
        assert each.generation.adapter_sha256 == model_sha256(adapter_dir)
        traced = base_of(place, DECODER if family == PRIOR else family)
        assert each.generation.model_sha256 == model_sha256(traced)
    base_pixels = pixels(draw_from_base(place, adapter_dir, family))
    for name, content in pixels(drawn).items():
        assert content != base_pixels[name]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SIGINT arrive when an adapter's training has reported a step."""
    report = ProgressLine.__call__

    def report_and_stop(self: ProgressLine, done: int, total: int, **named: Any) -> None:
        report(self, done, total, **named)
        if named.get("phase") == "adapter" and done == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressLine, "__call__", report_and_stop)


@pytest.mark.parametrize("family", ["pixart", "sd", PRIOR, DECODER, "flux"])
def test_stopped_row_goes_on_to_the_same_bytes(
    place: Path, adapters: Callable[[str], Path], family: str
) -> None:
    whole = adapters(family)
    recipe = recipe_of(place, family, f"{family}-stopped")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(1, monkeypatch)
        stopped = train(place, recipe)
    assert stopped.exit_code == 130, stopped.stderr
    assert not (place / "trained" / recipe.stem / "adapter").exists()
    resumed = train(place, recipe, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    for file in whole.rglob("*.safetensors"):
        again = place / "trained" / recipe.stem / "adapter" / file.relative_to(whole)
        assert again.read_bytes() == file.read_bytes(), file.relative_to(whole)


@pytest.mark.parametrize(
    ("name", "adapter", "key"),
    [
        ("dora", {"dora": "both"}, "dora"),
        ("rslora", {"rslora": True, "alpha": 4.0}, "rslora"),
        ("gaussian", {"init": "gaussian"}, "init"),
        ("dropout", {"dropout": 0.2}, "dropout"),
    ],
)
def test_every_kind_of_adapter_walks_one_row(
    place: Path, name: str, adapter: dict[str, Any], key: str
) -> None:
    recipe = recipe_of(place, "sd", f"sd-{name}", **adapter)
    ran = train(place, recipe)
    assert ran.exit_code == 0, ran.stderr
    adapter_dir = place / "trained" / recipe.stem / "adapter"
    wanted = True if name == "dora" else adapter[key]
    for part in read_adapter_record(adapter_dir).parts.values():
        assert getattr(part, key) == wanted
    assert len(pixels(sample(place, adapter_dir, f"sd-{name}"))) == len(PROMPTS)


def test_adapters_of_prior_and_decoder_draw_together_from_either_side(
    place: Path, adapters: Callable[[str], Path]
) -> None:
    prior, decoder = adapters(PRIOR), adapters(DECODER)
    one = sample(place, decoder, "both-from-decoder", "--prior-adapter", prior)
    two = sample(place, prior, "both-from-prior", "--decoder", decoder)
    assert pixels(one) == pixels(two)
    alone = sample(place, decoder, "decoder-alone")
    assert all(pixels(one)[name] != content for name, content in pixels(alone).items())
    hashes = {
        record.generation.adapter_sha256
        for folder in (one, two, alone)
        for record in read_image_folder(folder).records
        if record.generation
    }
    assert len(hashes) == 2, "the pair has one hash from either side, and another than the decoder's own"


def test_base_that_was_moved_is_found_with_an_option(
    place: Path, adapters: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter_dir = adapters("sd")
    here = base_of(place, "sd")
    moved = here.rename(tmp_path / "moved")
    try:
        common = ["sample", adapter_dir, "--prompts", place / "prompts.txt", "--out", tmp_path / "drawn"]
        common += ["--num-inference-steps", 2, "--batch-size", 2, "--device", "cpu"]
        lost = medgen(*common)
        assert lost.exit_code == 2
        assert (
            f"was trained on the folder {here}, which is not here; say where it is now with --base"
            in lost.stderr
        )
        found = medgen(*common, "--base", moved)
        assert found.exit_code == 0, found.stderr
    finally:
        moved.rename(here)
    assert pixels(tmp_path / "drawn") == pixels(sample(place, adapter_dir, "sd"))


def test_class_conditional_dit_walks_from_scratch(place: Path, tmp_path: Path) -> None:
    # Eight times smaller latents, as DiT-S/8 wants them; narrow, so that 512 px cost little.
    autoencoder = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    autoencoder.save_pretrained(tmp_path / "vae", safe_serialization=True)
    captions = tmp_path / "captions.jsonl"
    assert medgen("caption", place / "images", "--method", "simple", "--out", captions).exit_code == 0
    labels = list(read_image_folder(place / "images").card.labels)
    section = {
        "family": "dit",
        "autoencoder": str(tmp_path / "vae"),
        "classes": labels,
        "denoiser": {"num_steps": 2, "batch_size": 2, "ema_decay": 0.9, "log_every": 1},
    }
    recipe = tmp_path / "dit.yaml"
    recipe.write_text(yaml.safe_dump({"caption": {"dataset_texts": "none"}, "train": section}))
    out = tmp_path / "train"
    ran = medgen("train", recipe, "--data", place / "images", "--captions", captions, "--out", out)
    assert ran.exit_code == 0, ran.stderr
    (tmp_path / "prompts.txt").write_text(f"an endoscopic image of {labels[0]}\n")
    common = ["sample", out / "model", "--num-inference-steps", 2, "--batch-size", 1, "--device", "cpu"]
    drawn = medgen(
        *common,
        "--prompts",
        tmp_path / "prompts.txt",
        "--out",
        tmp_path / "d",
        "--set",
        "sample.guided_channels=3",
    )
    assert drawn.exit_code == 0, drawn.stderr
    (record,) = read_image_folder(tmp_path / "d").records
    assert record.generation is not None
    assert (record.generation.guided_channels, record.generation.adapter_sha256) == (3, None)
    (tmp_path / "prompts.txt").write_text("a unicorn\n")
    refused = medgen(*common, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "e")
    assert refused.exit_code == 2
    assert "prompt 'a unicorn' names no class; known are" in refused.stderr


def test_msdm_walks_with_a_recipe_that_names_its_family(place: Path, tmp_path: Path) -> None:
    section = {
        "family": "msdm",
        "text_encoder": str(write_tiny_text_encoder(tmp_path / "encoder")),
        "autoencoder": {"num_steps": 1, "batch_size": 2},
        "denoiser": {"num_steps": 2, "batch_size": 2},
    }
    recipe = tmp_path / "msdm.yaml"
    recipe.write_text(yaml.safe_dump({"train": section}))
    ran = medgen("train", recipe, "--data", place / "images", "--out", tmp_path / "train", "--json")
    assert json.loads(ran.stdout) == {"model": str(tmp_path / "train" / "model")}, ran.stderr
    assert len(pixels(sample(place, tmp_path / "train" / "model", "msdm"))) == len(PROMPTS)


def test_whole_experiment_of_an_adapter_ends_in_a_report(place: Path, tmp_path: Path) -> None:
    base = base_of(place, "pixart")
    recipe = {
        "name": "row",
        "seed": 1,
        "data": {"kind": "phantoms", "num_images": 32, "size": 32, "test_fraction": 0.25},
        "caption": {"method": "simple", "dataset_texts": "none"},
        "train": {
            "family": "pixart",
            "base": str(base),
            "adapter": {"rank": 2, "targets": "paper", "text_encoder": "attention"},
            "num_steps": 2,
            "batch_size": 2,
        },
        "sample": {
            "num_inference_steps": 2,
            "batch_size": 4,
            "per_class": 4,
            "prompts_from": "test",
            "untrained_reference": True,
        },
        "score": {"extractor": "random:0", "metrics": ["frechet"]},
    }
    recipe_file, run_dir = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe_file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    planned = medgen("run", recipe_file, "--out", run_dir, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    assert str(run_dir / "train/adapter/") in json.loads(planned.stdout)["files"]
    ran = medgen("run", recipe_file, "--out", run_dir, "--device", "cpu", "--json")
    assert ran.exit_code == 0, ran.stderr
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    assert record["inputs"] == {str(base): model_sha256(base)}
    trained = record["stages"]["train"]
    assert "train/adapter/denoiser/adapter_model.safetensors" in trained["outputs"]
    assert trained["figures"] == {"adapter_sha256": model_sha256(run_dir / "train" / "adapter")}
    untrained = read_image_folder(run_dir / "synthetic" / "untrained")
    assert {each.generation.adapter_sha256 for each in untrained.records if each.generation} == {None}
    drawn = read_image_folder(run_dir / "synthetic" / "dataset")
    assert pixels(drawn.root) != pixels(untrained.root)
    assert "<img" in (run_dir / "report.html").read_text(encoding="utf-8")
    assert json.loads(ran.stdout)["frechet_ratio"] > 0
    again = medgen("run", recipe_file, "--out", run_dir, "--device", "cpu")
    assert again.stderr.count("finished already, nothing changed") == 6
