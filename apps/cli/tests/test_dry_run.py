"""What a training would cost: nothing is read but configs, and every figure has another way to be known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.dry_run import count_training_images, parse_memory, plan_lines
from medgen_cli.errors import UsageError
from medgen_cli.settings import DataSettings
from medgen_data.problems import DataError

Call = Callable[..., Any]

PIXART = """\
data: {kind: class-folders, root: nowhere, limit: 100, test_fraction: 0.2, size: 512}
train:
  family: pixart
  base: PixArt-alpha/PixArt-XL-2-512x512
  base_dtype: bfloat16
  adapter: {rank: 4, targets: paper}
  num_epochs: 3
  batch_size: 2
  accumulation: 2
  hldf: {every_steps: 20}
"""


@pytest.fixture(scope="module")
def pixart_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medgen_models.tiny.pixart import write_tiny_pixart

    return write_tiny_pixart(tmp_path_factory.mktemp("base") / "pixart")


def test_full_size_is_planned_without_data_weights_or_network(
    medgen: Call, write: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    recipe = write("recipe.yaml", PIXART)
    ran = medgen("train", recipe, "--dry-run", "--json", "--fit", "24GB")
    assert ran.exit_code == 0, ran.stderr
    plan = json.loads(ran.stdout)
    assert plan["counted_from"] == "PixArt-alpha/PixArt-XL-2-512x512"
    assert plan["num_images"] == 80
    assert plan["num_steps"] == 60  # 3 x 80 / (2 x 2)
    assert plan["hldf_evaluations"] == 3
    # Attention and feed-forward at rank 8 are 6,709,248.
    assert plan["parameters"]["denoiser"] == {"total": 610_856_096, "trainable": 6_709_248 // 2}
    assert plan["parameters"]["text_encoder"] == {"total": 4_762_310_656, "trainable": 0}
    # Mean and deviation of 4 x 64 x 64 latents of 80 images; 120 states of T5 of 80 prompts and the empty one.
    assert plan["cache_bytes"] == 4 * (80 * 2 * 4 * 64 * 64 + 81 * 120 * 4096)
    assert plan["adapter_bytes"] == 4 * plan["num_trainable_parameters"]
    flops = plan["flops"]
    assert flops["training"] == 60 * flops["step"] + 3 * flops["hldf_evaluation"]
    memory = plan["memory"]
    assert memory["weights"].keys() == {"denoiser", "vae"}, "cached prompts need no text encoder"
    adapter = 6_709_248 // 2
    assert memory["weights"]["denoiser"] == 2 * 610_856_096 + 4 * adapter
    assert (memory["gradients"], memory["optimizer"]) == (4 * adapter, 8 * adapter)
    parts = [
        *memory["weights"].values(),
        *(memory[n] for n in ("gradients", "optimizer", "activations", "runtime")),
    ]
    assert memory["peak"] == sum(parts)
    assert memory["activations"] > 0
    # Here decoding with a gradient keeps most, and checkpointed blocks of the denoiser save nothing.
    assert memory["peak_checkpointed"] == memory["peak"]
    fit = plan["fit"]
    assert fit["settings"]["train.batch_size"] * fit["settings"]["train.accumulation"] == 4
    assert fit["peak_bytes"] < fit["memory_bytes"] == 24 * 10**9
    assert all(fit["reasons"])


def test_text_encoder_that_learns_in_its_last_block_is_planned_with_the_others_at_rest(
    medgen: Call, write: Call
) -> None:
    plans = {}
    last_block = PIXART.replace(
        "targets: paper", "targets: paper, text_encoder: true, text_encoder_blocks: 1"
    )
    for name, text in {
        "last": last_block,
        "live": f"{last_block}  cache: false\n",
    }.items():
        ran = medgen("train", write("recipe.yaml", text), "--dry-run", "--json")
        assert ran.exit_code == 0, ran.stderr
        plans[name] = json.loads(ran.stdout)
    latents = 4 * 80 * 2 * 4 * 64 * 64
    assert plans["last"]["cache_bytes"] == latents + 2 * 81 * 120 * 4096  # bfloat16 states
    assert plans["live"]["cache_bytes"] == 0
    assert plans["last"]["flops"]["step"] < 0.8 * plans["live"]["flops"]["step"]
    # The weights of 22 of 24 blocks.
    weights = [plans[name]["memory"]["weights"]["text_encoder"] for name in ("live", "last")]
    assert weights[0] - weights[1] == 2 * 22 * (4 * 4096 * 4096 + 3 * 4096 * 10_240 + 2 * 4096)


def test_table_for_a_human_holds_every_module_and_the_settings_that_fit(medgen: Call, write: Call) -> None:
    ran = medgen(
        "train", "--config", write("recipe.yaml", PIXART), "--dry-run", "--num-images", 10, "--fit", "16GiB"
    )
    assert ran.exit_code == 0, ran.stderr
    assert "kept in float32" not in ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["denoiser", "610,856,096", "3,354,624"] in lines
    assert ["num_images", "10"] in lines
    assert "fits 16.0 GiB with" in ran.stdout
    assert any(line and line[0].startswith("train.batch_size=") for line in lines)


def test_device_that_holds_nothing_is_refused_with_what_to_do(
    medgen: Call, one_clear_error: Call, write: Call
) -> None:
    ran = medgen("train", write("recipe.yaml", PIXART), "--dry-run", "--fit", "1GB")
    message = one_clear_error(ran, 6)
    assert "0.9 GiB are too little: one image at a time in bfloat16 needs" in message
    assert "take a smaller image" in message


def test_local_folder_is_counted_from_its_own_configs(medgen: Call, write: Call, pixart_base: Path) -> None:
    from medgen_models.loading import load_base
    from medgen_models.model_source import ModelSource

    for weights in pixart_base.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".away"))
    try:
        recipe = write("recipe.yaml", PIXART)
        ran = medgen("train", recipe, "--base", pixart_base, "--dry-run", "--json")
    finally:
        for weights in pixart_base.rglob("*.away"):
            weights.rename(weights.with_suffix(".safetensors"))
    assert ran.exit_code == 0, ran.stderr
    plan = json.loads(ran.stdout)
    assert plan["counted_from"] == str(pixart_base)
    parts = load_base(ModelSource(str(pixart_base))).components()
    for name, part in parts.items():
        assert plan["parameters"][name]["total"] == sum(weight.numel() for weight in part.parameters())
    # 4 projections of both attentions and 2 feed-forward layers in each of 2 blocks, width 24.
    assert plan["parameters"]["denoiser"]["trainable"] == 4 * 2 * (8 * (24 + 24) + 2 * (24 + 96))
    assert plan["flops"] is None
    assert plan["memory"]["activations"] is None


def test_settings_that_fit_are_not_made_up_for_a_folder_of_unknown_shapes(
    medgen: Call, one_clear_error: Call, write: Call, pixart_base: Path
) -> None:
    recipe = write("recipe.yaml", PIXART)
    ran = medgen("train", recipe, "--base", pixart_base, "--dry-run", "--fit", "24GB")
    assert "has other shapes than the published model" in one_clear_error(ran, 2)


def test_folder_of_another_family_is_refused_in_a_dry_run_too(
    medgen: Call, one_clear_error: Call, write: Call, pixart_base: Path
) -> None:
    recipe = write(
        "recipe.yaml", PIXART.replace("family: pixart", "family: sd").replace("paper", "attention")
    )
    message = one_clear_error(medgen("train", recipe, "--base", pixart_base, "--dry-run"), 5)
    assert (
        "'_class_name' is 'PixArtAlphaPipeline', and train.family sd wants StableDiffusionPipeline" in message
    )


def test_half_a_recipe_of_msdm_is_planned_with_its_autoencoder(medgen: Call, write: Call) -> None:
    recipe = write(
        "recipe.yaml", "data: {kind: phantoms, num_images: 100}\ntrain: {autoencoder: {num_steps: 7}}\n"
    )
    plan = json.loads(medgen("train", recipe, "--dry-run", "--json", "--fit", "24GB").stdout)
    assert (plan["num_images"], plan["num_steps"]) == (80, 807)
    assert plan["parameters"]["vae"]["trainable"] == plan["parameters"]["vae"]["total"] > 0
    assert plan["parameters"]["text_encoder"]["trainable"] == 0
    flops = plan["flops"]
    assert flops["training"] == 800 * flops["step"] + 7 * flops["autoencoder_step"]
    assert plan["fit"]["settings"] == {"train.denoiser.batch_size": 48}


def test_too_large_a_batch_of_msdm_is_lowered_with_a_reason(medgen: Call, write: Call) -> None:
    recipe = write("recipe.yaml", "data: {kind: phantoms, num_images: 100}\ntrain: {preset: msdm-256}\n")
    ran = medgen("train", recipe, "--dry-run", "--json", "--fit", "12GB")
    fit = json.loads(ran.stdout)["fit"]
    assert 1 <= fit["settings"]["train.denoiser.batch_size"] < 48
    assert "a smaller one is another training" in fit["reasons"][-1]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["--dry-run", "--num-images", "0"], 2, "--num-images"),
        (["--dry-run", "--fit", "large"], 2, "--fit large: expected a size such as 24GB or 24GiB"),
        (["--fit", "24GB"], 2, "--num-images and --fit belong to --dry-run"),
        (["--out", "o"], 2, "--data is missing; only a --dry-run does without"),
        (["--config", "other.yaml", "--dry-run"], 2, "give the recipe once"),
        (
            ["--dry-run", "--set", "data.limit=null"],
            3,
            "nowhere: no such folder; check data.root; or give --num-images",
        ),
    ],
)
def test_options_of_a_dry_run_that_make_no_sense_are_refused(
    medgen: Call, one_clear_error: Call, write: Call, arguments: list[str], exit_code: int, said: str
) -> None:
    ran = medgen("train", write("recipe.yaml", PIXART), *arguments)
    assert said in one_clear_error(ran, exit_code)


def test_images_are_counted_where_they_are(tmp_path: Path) -> None:
    for n in range(10):
        (tmp_path / f"{n}.png").write_bytes(b"")
    settings = DataSettings(kind="class-folders", root=tmp_path, test_fraction=0.25, validation_fraction=0.1)
    assert count_training_images(settings) == 10 - 3 - 1
    absent = settings.model_copy(update={"root": tmp_path / "absent"})
    with pytest.raises(DataError, match=r"no such folder.*or give --num-images"):
        count_training_images(absent)
    assert count_training_images(absent.model_copy(update={"limit": 20})) == 20 - 5 - 2


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("24GB", 24 * 10**9), ("1.5 GiB", 3 * 2**29), ("800mb", 8 * 10**8), ("1MiB", 2**20)],
)
def test_sizes_are_read_in_both_kinds_of_units(text: str, num_bytes: int) -> None:
    assert parse_memory(text) == num_bytes


@pytest.mark.parametrize("text", ["24", "GB", "-1GB", "0GB", "24TB"])
def test_sizes_without_meaning_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 24GB or 24GiB"):
        parse_memory(text)


def test_lines_say_what_was_not_measured() -> None:
    memory = {"weights": {"denoiser": 2**30}, "activations": None, "average": 0, "peak_checkpointed": None}
    lines = plan_lines({"num_steps": 1000, "flops": None, "memory": memory})
    assert lines[0].split() == ["num_steps", "1,000"]
    assert any(line.split() == ["activations", "not", "measured"] for line in lines)
    assert not any("average" in line or "checkpointed" in line for line in lines)
