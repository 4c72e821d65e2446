"""Mistakes with pretrained models and adapters: the right code, one clear error that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from medgen_models.tiny.flux import write_tiny_flux
    from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_prior
    from medgen_models.tiny.stable_diffusion import write_tiny_sd

    folder = tmp_path_factory.mktemp("bases")
    return {
        "sd": write_tiny_sd(folder / "sd"),
        "flux": write_tiny_flux(folder / "flux"),
        "kandinsky22-prior": write_tiny_kandinsky22_prior(folder / "prior"),
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medgen_data.phantoms import write_phantom_dataset

    folder = tmp_path_factory.mktemp("phantoms") / "dataset"
    write_phantom_dataset(folder, num_images=8, size=32, seed=0, test_fraction=0.25)
    return folder


def train_section(family: str, base: object, **changes: Any) -> dict[str, Any]:
    return {
        "family": family,
        "base": str(base),
        "adapter": {"rank": 2},
        "num_steps": 2,
        "batch_size": 2,
        "log_every": 1,
        **changes,
    }


@pytest.fixture
def train(medgen: Call, tmp_path: Path, dataset: Path) -> Call:
    """Run `medgen train` on a `train` section."""

    def call(section: dict[str, Any], *more: object, out: str = "train") -> Any:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"train": section}), encoding="utf-8")
        return medgen("train", recipe, "--data", dataset, "--out", tmp_path / out, "--device", "cpu", *more)

    return call


@pytest.fixture(scope="module")
def adapter(bases: dict[str, Path], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter of two steps on Stable Diffusion."""
    from medgen_cli.main import run_command_line

    folder = tmp_path_factory.mktemp("adapter")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"train": train_section("sd", bases["sd"])}))
    arguments = ["train", folder / "recipe.yaml", "--data", dataset, "--out", folder, "--device", "cpu"]
    assert run_command_line([str(argument) for argument in arguments]) == 0
    return folder / "adapter"


@pytest.fixture
def draw(medgen: Call, write: Call, tmp_path: Path) -> Call:
    def call(folder: Path, *more: object) -> Any:
        prompts = write("prompts.txt", "a polyp\n")
        common = ["sample", folder, "--prompts", prompts, "--out", tmp_path / "drawn", "--device", "cpu"]
        return medgen(*common, "--num-inference-steps", 2, *more)

    return call


def test_absent_model_is_code_five_and_says_how_to_get_it(
    train: Call, one_clear_error: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = one_clear_error(train(train_section("sd", tmp_path / "nowhere")), 5)
    assert "nowhere: no such folder, and no hub name, which looks like owner/name" in folder
    hub = one_clear_error(train(train_section("sd", "medgen-test/not-there")), 5)
    assert "medgen-test/not-there: model_index.json not found" in hub
    assert "allow the download once, or give a local folder" in hub


def test_gated_model_is_told_with_the_way_in(
    train: Call, one_clear_error: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import GatedRepoError

    def refuse(name: str, *_: object, **__: object) -> str:
        raise GatedRepoError("403", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr("medgen_models.model_source.hf_hub_download", refuse)
    message = one_clear_error(train(train_section("flux", "black-forest-labs/FLUX.1-dev")), 5)
    assert (
        "black-forest-labs/FLUX.1-dev: the model is gated; accept its licence on its page and log in"
        in message
    )


def test_folder_of_another_family_is_refused(
    train: Call, one_clear_error: Call, bases: dict[str, Path]
) -> None:
    message = one_clear_error(train(train_section("pixart", bases["sd"])), 5)
    assert f"{bases['sd']}: is of family sd, expected pixart" in message


def test_pickled_weights_are_refused_with_advice(
    train: Call, one_clear_error: Call, bases: dict[str, Path], tmp_path: Path
) -> None:
    pickled = shutil.copytree(bases["sd"], tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").rename(pickled / "unet" / "model.bin")
    message = one_clear_error(train(train_section("sd", pickled)), 5)
    assert "pickled weights may run code and are not read" in message


def test_selection_needs_held_out_images(
    train: Call, one_clear_error: Call, bases: dict[str, Path], tmp_path: Path
) -> None:
    message = one_clear_error(train(train_section("sd", bases["sd"], selection="validation-loss")), 2)
    assert "train.selection: validation-loss needs a validation split" in message
    assert not (tmp_path / "train").exists()


def test_an_adapter_is_selected_by_its_held_out_loss(
    medgen: Call, train: Call, dataset: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    for row in map(json.loads, (dataset / "metadata.jsonl").read_text().splitlines()):
        folder = tmp_path / "source" / row["label"]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / row["file_name"], folder)
    source = ["data", "--kind", "class-folders", "--root", tmp_path / "source", "--size", 32]
    source += ["--set", "data.validation_fraction=0.5", "--set", "data.test_fraction=0"]
    assert medgen(*source, "--out", tmp_path / "split").exit_code == 0
    captions = tmp_path / "captions.jsonl"
    assert medgen("caption", tmp_path / "split", "--method", "simple", "--out", captions).exit_code == 0
    section = train_section("sd", bases["sd"], selection="validation-loss", validate_every=1)
    ran = train(section, "--data", tmp_path / "split", "--captions", captions)
    assert ran.exit_code == 0, ran.stderr
    rows = [json.loads(line) for line in (tmp_path / "train" / "train_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_loss" in row] == [1, 2]


def test_blocks_that_cannot_be_compiled_stop_the_run_before_it_begins(
    train: Call,
    one_clear_error: Call,
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    import torch._inductor.config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}):
        ran = train(train_section("sd", bases["sd"], compile_blocks=True))
    torch.compiler.reset()
    assert "set compile_blocks: false" in one_clear_error(ran, 2)


def test_adapter_of_another_family_is_refused(
    draw: Call, one_clear_error: Call, adapter: Path, bases: dict[str, Path]
) -> None:
    message = one_clear_error(draw(adapter, "--base", bases["flux"]), 5)
    assert "is of family flux, expected sd" in message


def test_adapter_of_another_base_is_refused(
    draw: Call, one_clear_error: Call, adapter: Path, tmp_path: Path
) -> None:
    from medgen_models.tiny.stable_diffusion import write_tiny_sd

    message = one_clear_error(draw(adapter, "--base", write_tiny_sd(tmp_path / "other", seed=1)), 2)
    assert "trained on base weights with sha256" in message


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_adapter_of_another_rank_than_its_weights_is_refused(
    draw: Call, one_clear_error: Call, adapter: Path, tmp_path: Path
) -> None:
    edited = shutil.copytree(adapter, tmp_path / "adapter")
    edit_json(edited / "denoiser" / "adapter_config.json", r=4)
    assert "r is 4, but adapter.json says 2" in one_clear_error(draw(edited), 2)
    record = json.loads((edited / "adapter.json").read_text())
    record["parts"]["denoiser"].update(rank=4, alpha=4.0)
    (edited / "adapter.json").write_text(json.dumps(record))
    edit_json(edited / "denoiser" / "adapter_config.json", r=4, lora_alpha=4.0)
    message = one_clear_error(draw(edited), 2)
    assert "expected (4, " in message
    assert "it was trained on a model of another size" in message


def test_adapter_whose_keys_do_not_all_match_is_refused(
    draw: Call, one_clear_error: Call, adapter: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    edited = shutil.copytree(adapter, tmp_path / "adapter")
    weights_file = edited / "denoiser" / "adapter_model.safetensors"
    tensors = load_file(weights_file)
    name = min(tensors)
    tensors["base_model.model.elsewhere.lora_A.weight"] = tensors.pop(name)
    save_file(tensors, weights_file)
    message = one_clear_error(draw(edited), 2)
    assert f"1 tensors of the model's adapter are missing (first: {name})" in message
    assert "1 are left over (first: base_model.model.elsewhere.lora_A.weight)" in message


def test_targets_that_name_no_layer_are_refused_with_what_is_there(
    train: Call, one_clear_error: Call, bases: dict[str, Path]
) -> None:
    section = train_section("sd", bases["sd"], adapter={"rank": 2, "targets": ["to_qq"]})
    message = one_clear_error(train(section), 2)
    assert "adapter target 'to_qq' matches no module" in message
    assert "to_q" in message


def test_loss_that_is_no_number_stops_with_the_batch_and_the_last_good_checkpoint(
    train: Call, one_clear_error: Call, bases: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    from medgen_data.image_folder import read_image_folder

    # The first step still is a number; AdamW then moves every weight by the learning rate.
    section = train_section("sd", bases["sd"], learning_rate=1e30, num_steps=5, checkpoint_every=1)
    message = one_clear_error(train(section), 8)
    assert "the loss of step 2 is not finite (images " in message
    assert "checkpoint-1 is from before it" in message
    assert "lower train.learning_rate" in message
    named = message.split("(images ")[1].split(")")[0].split(", ")
    assert set(named) <= {record.record_id for record in read_image_folder(dataset).records}
    assert len(named) == 2
    assert [folder.name for folder in (tmp_path / "train" / "checkpoints" / "adapter").iterdir()] == [
        "checkpoint-1"
    ]


def test_too_little_memory_says_what_to_lower(
    train: Call, one_clear_error: Call, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def too_small(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("medgen_training.adapter.trainer.draw_losses", too_small)
    message = one_clear_error(train(train_section("sd", bases["sd"])), 6)
    assert "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB" in message
    for key in (
        "batch_size",
        "accumulation",
        "gradient_checkpointing true",
        "base_dtype bfloat16",
        "image_size",
    ):
        assert f"train.{key}" in message
    assert "--dry-run --fit" in message


def test_image_smaller_than_the_crop_is_refused_by_name(
    train: Call, one_clear_error: Call, bases: dict[str, Path], dataset: Path
) -> None:
    message = one_clear_error(train(train_section("sd", bases["sd"], image_size=64)), 3)
    assert str(dataset / "images") in message
    assert "32 x 32 px, smaller than the 64 px that are trained" in message
    assert "set train.image_size lower, or train.allow_upscaling to true" in message


def test_prompts_beyond_the_limit_are_counted_and_reported(train: Call, bases: dict[str, Path]) -> None:
    ran = train(train_section("flux", bases["flux"], max_tokens=8))
    assert ran.exit_code == 0, ran.stderr
    assert "are longer than the text encoder reads, the longest has" in ran.stderr
    assert "what is beyond is cut. Shorten them, or raise train.max_tokens" in ran.stderr
    fits = train(train_section("kandinsky22-prior", bases["kandinsky22-prior"]), out="other")
    assert fits.exit_code == 0, fits.stderr


@pytest.mark.parametrize(
    ("family", "solver", "said"),
    [
        (
            "flux",
            "dpm-solver++",
            "sample.solver: solver dpm-solver++ is for diffusion, and this model is a flow; use solver euler",
        ),
        (
            "sd",
            "euler",
            "sample.solver: solver euler is for flows, and this model is a diffusion; use dpm-solver++ or ddim",
        ),
    ],
)
def test_wrong_solver_says_which_one_to_use(
    draw: Call,
    one_clear_error: Call,
    bases: dict[str, Path],
    tmp_path: Path,
    family: str,
    solver: str,
    said: str,
) -> None:
    assert said in one_clear_error(draw(bases[family], "--solver", solver), 2)
    assert not (tmp_path / "drawn").exists()


def test_prior_alone_has_no_pixels_and_asks_for_a_decoder(
    train: Call, draw: Call, one_clear_error: Call, bases: dict[str, Path], tmp_path: Path, adapter: Path
) -> None:
    ran = train(train_section("kandinsky22-prior", bases["kandinsky22-prior"]), out="prior")
    assert ran.exit_code == 0, ran.stderr
    prior = tmp_path / "prior" / "adapter"
    assert "name a decoder with --decoder" in one_clear_error(draw(prior), 2)
    wrong = one_clear_error(draw(prior, "--decoder", adapter), 2)
    assert "is an adapter of sd, not of kandinsky22-decoder" in wrong
    assert "belongs to an adapter of kandinsky22-decoder" in one_clear_error(
        draw(adapter, "--prior-adapter", prior), 2
    )
    assert "belongs to an adapter of kandinsky22-prior" in one_clear_error(
        draw(adapter, "--decoder", prior), 2
    )


def test_options_of_adapters_mean_nothing_to_a_whole_model(
    draw: Call, one_clear_error: Call, bases: dict[str, Path]
) -> None:
    message = one_clear_error(draw(bases["sd"], "--base", bases["flux"]), 2)
    assert "has no adapter.json, so it is a whole model and --base means nothing" in message


def test_flag_of_another_family_is_refused(
    train: Call, one_clear_error: Call, bases: dict[str, Path]
) -> None:
    message = one_clear_error(train(train_section("sd", bases["sd"]), "--preset", "msdm-tiny"), 2)
    assert "--preset has no meaning for train.family sd; leave it out" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "pixar"}, "train.family: should be one of msdm, dit, pixart, sd, sdxl, hunyuan-dit"),
        ({"adapter": {"ran": 3}}, 'train.adapter.ran: unknown key; did you mean "rank"?'),
        ({"denoiser": {}}, "train.denoiser: unknown key; known here: family, base"),
        ({"num_epochs": 2}, "train: give either num_epochs or num_steps"),
        ({"adapter": {"rslora": True}}, "train.adapter: adapter.rslora divides alpha"),
    ],
)
@pytest.mark.parametrize("command", ["train", "run"])
def test_wrong_train_section_names_the_dotted_field(
    medgen: Call,
    one_clear_error: Call,
    write: Call,
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
    command: str,
) -> None:
    sections = {
        "name": "x",
        "data": {"kind": "phantoms", "num_images": 16},
        "train": {**train_section("sd", "somewhere"), **changes},
    }
    recipe = write("recipe.yaml", yaml.safe_dump(sections))
    message = one_clear_error(medgen(command, recipe, "--out", tmp_path / "out", *(["--dry-run"])), 2)
    assert said in message


def test_unknown_family_is_told_with_the_nearest(medgen: Call, one_clear_error: Call, tmp_path: Path) -> None:
    message = one_clear_error(medgen("train", "--dry-run", "--set", "train.family=pixat"), 2)
    assert "got 'pixat'; did you mean \"pixart\"?" in message
