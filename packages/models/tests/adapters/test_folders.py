import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from medgen_models import MissingModelError
from medgen_models.adapters.config import AdapterConfig, PartAdapter, part_adapters
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.folders import AdapterFacts, load_adapter, read_adapter_record, save_adapter
from medgen_models.adapters.wiring import adapter_state, add_adapter, add_adapters, is_adapted
from peft import PeftModel
from torch import nn

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora-gaussian": {"rslora": True, "alpha": 4.5, "init": "gaussian"},
    "dora": {"dora": "denoiser"},
}
FACTS = AdapterFacts(family="sd", base_model="tiny/sd", base_revision="abc123", base_sha256="0" * 64)


def adapt(module: nn.Module, family: Any, **section: Any) -> None:
    adapter = part_adapters(AdapterConfig.model_validate({"rank": 2, **section}), family)["denoiser"]
    add_adapter(module, adapter, seed=3)


@pytest.fixture
def saved(tmp_path: Path, new_miniature: Callable[..., Any], shake: Callable[[nn.Module], None]) -> Path:
    """The folder of an adapted SD miniature of rank 2."""
    module = new_miniature("sd").module
    adapt(module, "sd")
    shake(module)
    save_adapter(tmp_path / "adapter", {"denoiser": module}, FACTS)
    return tmp_path / "adapter"


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_equal_to_the_last_bit_and_any_peft_user_can_load(
    miniature: Any,
    new_miniature: Callable[..., Any],
    shake: Callable[[nn.Module], None],
    tmp_path: Path,
    kind: str,
) -> None:
    family = miniature.family
    adapt(miniature.module, family, **KINDS[kind])
    shake(miniature.module)
    output, state = miniature.call(miniature.module), adapter_state(miniature.module)
    facts = AdapterFacts(family=family, base_model="tiny")
    save_adapter(tmp_path / "adapter", {"denoiser": miniature.module}, facts)

    fresh = new_miniature(family).module
    record = load_adapter(tmp_path / "adapter", {"denoiser": fresh}, family=family)
    loaded = adapter_state(fresh)
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert torch.equal(miniature.call(fresh), output)
    assert record.parts["denoiser"].rank == 2

    wrapped = PeftModel.from_pretrained(new_miniature(family).module, tmp_path / "adapter" / "denoiser")
    torch.testing.assert_close(miniature.call(wrapped.base_model.model), output, rtol=1e-5, atol=1e-5)
    assert sorted(key for key in wrapped.state_dict() if "lora_B" in key) == sorted(
        name.replace("lora_B.", "lora_B.default.") for name in state if "lora_B" in name
    )


@pytest.mark.parametrize("dora", ["none", "denoiser"])
@pytest.mark.parametrize(
    ("family", "targets"), [("pixart", "authors"), ("flux", "authors"), ("msdm", "feed-forward")]
)
def test_convolutions_and_feed_forwards_make_the_round_trip(
    new_miniature: Callable[..., Any],
    shake: Callable[[nn.Module], None],
    tmp_path: Path,
    family: Any,
    targets: str,
    dora: str,
) -> None:
    miniature, fresh = new_miniature(family), new_miniature(family).module
    adapt(miniature.module, family, targets=targets, dora=dora)
    shake(miniature.module)
    facts = AdapterFacts(family=family, base_model="tiny")
    save_adapter(tmp_path / "adapter", {"denoiser": miniature.module}, facts)
    load_adapter(tmp_path / "adapter", {"denoiser": fresh}, family=family)
    assert torch.equal(miniature.call(fresh), miniature.call(miniature.module))


def test_text_encoders_make_the_round_trip(
    new_miniature: Callable[..., Any],
    new_t5: Callable[..., nn.Module],
    shake: Callable[[nn.Module], None],
    tmp_path: Path,
) -> None:
    ids = torch.tensor([[5, 6, 7, 1]])
    parts = {"denoiser": new_miniature("pixart").module, "text_encoder": new_t5(gated=True)}
    config = AdapterConfig(
        rank=2, targets="authors", text_encoder=True, text_encoder_rank=3, text_encoder_blocks=1
    )
    add_adapters(parts, config, family="pixart", seed=0)
    for module in parts.values():
        shake(module)
    states: Any = parts["text_encoder"](ids)[0]
    save_adapter(tmp_path / "a", parts, AdapterFacts(family="pixart", base_model="tiny"))

    fresh = {"denoiser": new_miniature("pixart").module, "text_encoder": new_t5(gated=True)}
    record = load_adapter(tmp_path / "a", fresh, family="pixart")
    assert {part: adapter.rank for part, adapter in record.parts.items()} == {
        "denoiser": 2,
        "text_encoder": 3,
    }
    assert record.parts["text_encoder"].last_blocks == 1
    assert torch.equal(fresh["text_encoder"](ids)[0], states)
    wrapped = PeftModel.from_pretrained(new_t5(gated=True), tmp_path / "a" / "text_encoder")
    torch.testing.assert_close(wrapped.base_model.model(ids)[0], states)


def test_clip_makes_the_round_trip_with_and_without_projection(
    new_clip: Callable[..., nn.Module], shake: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    ids = torch.tensor([[98, 6, 7, 99]])
    for with_projection in (False, True):
        text_encoder = new_clip(with_projection=with_projection)
        adapter = PartAdapter(rank=2, alpha=2, targets=("q_proj", "k_proj", "v_proj", "out_proj"))
        add_adapter(text_encoder, adapter, seed=0)
        shake(text_encoder)
        folder = tmp_path / f"clip-{with_projection}"
        save_adapter(folder, {"text_encoder": text_encoder}, FACTS)
        fresh = new_clip(with_projection=with_projection)
        load_adapter(folder, {"text_encoder": fresh}, family="sd")
        assert torch.equal(fresh(ids)[0], text_encoder(ids)[0])


def test_folder_says_what_it_belongs_to_and_always_has_alpha(saved: Path) -> None:
    record = read_adapter_record(saved)
    assert (record.family, record.base_model, record.base_revision) == ("sd", "tiny/sd", "abc123")
    assert record.parts["denoiser"].alpha == 2
    assert set(record.libraries) == {"torch", "diffusers", "transformers", "peft"}
    config = json.loads((saved / "denoiser" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 2, "tiny/sd")
    assert config["target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]


def test_same_adapter_gives_the_same_bytes(new_miniature: Callable[..., Any], tmp_path: Path) -> None:
    module = new_miniature("sd").module
    adapt(module, "sd")
    for name in ("first", "second"):
        save_adapter(tmp_path / name, {"denoiser": module}, FACTS)
    files = [file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*.*")]
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_loading_into_an_adapted_network_takes_the_weights(
    saved: Path, new_miniature: Callable[..., Any]
) -> None:
    module = new_miniature("sd").module
    adapt(module, "sd")
    load_adapter(saved, {"denoiser": module}, family="sd")
    stored = safetensors.torch.load_file(saved / "denoiser" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in adapter_state(module).items())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rank": 4}, r"adapter of denoiser has rank 2, the model was given 4; set adapter.rank"),
        ({"alpha": 7}, r"has alpha 2.0, the model was given 7.0; set adapter.alpha"),
        ({"dora": "denoiser"}, r"has dora False, the model was given True"),
        ({"targets": ["to_q"]}, r"has targets \('to_k', .*the model was given \('to_q',\)"),
    ],
)
def test_adapter_of_other_settings_is_refused(
    saved: Path, new_miniature: Callable[..., Any], section: dict[str, Any], message: str
) -> None:
    module = new_miniature("sd").module
    adapt(module, "sd", **section)
    with pytest.raises(AdapterError, match=message):
        load_adapter(saved, {"denoiser": module}, family="sd")


def test_adapter_of_another_family_or_base_is_refused(saved: Path, new_miniature: Callable[..., Any]) -> None:
    parts = {"denoiser": new_miniature("sdxl").module}
    with pytest.raises(
        AdapterError, match=r"adapter of family 'sd', but the model is 'sdxl'; load it into 'tiny/sd'"
    ):
        load_adapter(saved, parts, family="sdxl")
    with pytest.raises(AdapterError, match=r"sha256 000000000000, but the model has ffffffffffff"):
        load_adapter(saved, parts, family="sd", base_sha256="f" * 64)


def test_network_of_another_shape_is_refused_and_left_alone(
    saved: Path, new_miniature: Callable[..., Any]
) -> None:
    other = new_miniature("sdxl").module  # a UNet too, but of other blocks
    before = [name for name, _ in other.named_modules()]
    file = saved / "denoiser" / "adapter_model.safetensors"
    with pytest.raises(
        AdapterError, match=rf"{file}: \d+ tensors .* are missing \(first: base_model.model.*left over"
    ):
        load_adapter(saved, {"denoiser": other}, family="sd")
    assert [name for name, _ in other.named_modules()] == before
    assert not is_adapted(other)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "denoiser" / "adapter_model.safetensors"
    state = safetensors.torch.load_file(file)
    change(state)
    safetensors.torch.save_file(state, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop(min(state)),
            r"1 tensors .* are missing \(first: base_model.model.down.*0 are left over",
        ),
        (lambda state: state.update(more=torch.zeros(1)), r"0 tensors .* 1 are left over \(first: more\)"),
        (lambda state: state.update({min(state): torch.zeros(2, 3)}), r"is \(2, 3\), expected \(2, 16\)"),
        (
            lambda state: [
                state.update({k.removeprefix("base_model.model."): state.pop(k)}) for k in list(state)
            ],
            r"64 tensors .* missing .*, 64 are left over",
        ),
    ],
)
def test_tensors_must_match_one_for_one(
    saved: Path,
    new_miniature: Callable[..., Any],
    change: Callable[[dict[str, torch.Tensor]], object],
    message: str,
) -> None:
    edit_weights(saved, change)
    with pytest.raises(AdapterError, match=rf"adapter_model.safetensors: .*{message}"):
        load_adapter(saved, {"denoiser": new_miniature("sd").module}, family="sd")


def test_parts_must_be_there_on_both_sides(
    saved: Path, new_miniature: Callable[..., Any], new_clip: Callable[..., nn.Module]
) -> None:
    with pytest.raises(AdapterError, match=r"adapts denoiser, but got only vae; load denoiser too"):
        load_adapter(saved, {"vae": nn.Linear(1, 1)}, family="sd")
    text_encoder = new_clip(with_projection=False)
    add_adapter(text_encoder, PartAdapter(rank=2, alpha=2, targets=("q_proj",)), seed=0)
    parts = {"denoiser": new_miniature("sd").module, "text_encoder": text_encoder}
    with pytest.raises(AdapterError, match=r"holds no weights for the adapter of text_encoder"):
        load_adapter(saved, parts, family="sd")


def test_descriptions_that_disagree_are_refused(saved: Path, new_miniature: Callable[..., Any]) -> None:
    file = saved / "denoiser" / "adapter_config.json"
    file.write_text(file.read_text().replace('"lora_alpha": 2', '"lora_alpha": 64'))
    with pytest.raises(AdapterError, match=r"adapter_config.json: lora_alpha is 64, but adapter.json says 2"):
        load_adapter(saved, {"denoiser": new_miniature("sd").module}, family="sd")


def test_record_of_another_version_or_missing_is_named(saved: Path, tmp_path: Path) -> None:
    file = saved / "adapter.json"
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(AdapterError, match=r"adapter.json: field 'format_version'.*another version"):
        read_adapter_record(saved)
    with pytest.raises(MissingModelError, match=r"nowhere: expected an adapter folder with adapter.json"):
        read_adapter_record(tmp_path / "nowhere")


def test_pickled_or_damaged_weights_are_never_read(saved: Path, new_miniature: Callable[..., Any]) -> None:
    file = saved / "denoiser" / "adapter_model.safetensors"
    parts = {"denoiser": new_miniature("sd").module}
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors: not readable as safetensors"):
        load_adapter(saved, parts, family="sd")
    file.rename(file.with_name("adapter_model.bin"))
    with pytest.raises(
        AdapterError, match=r"adapter_model.bin beside it is a pickle.*convert it to safetensors"
    ):
        load_adapter(saved, parts, family="sd")


def test_folder_is_whole_or_absent(
    new_miniature: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = new_miniature("sd").module
    adapt(module, "sd")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_adapter(tmp_path / "adapter", {"denoiser": module}, FACTS)
    assert list(tmp_path.iterdir()) == []
    save_adapter(tmp_path / "adapter", {"denoiser": module}, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    with pytest.raises(FileExistsError, match=r"adapter exists; choose another folder"):
        save_adapter(tmp_path / "adapter", {"denoiser": module}, FACTS)


def test_networks_without_an_adapter_cannot_be_saved(
    new_miniature: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=r"none of denoiser has an adapter"):
        save_adapter(tmp_path / "adapter", {"denoiser": new_miniature("sd").module}, FACTS)
