import pytest
from medgen_models.adapters.config import AdapterConfig, PartAdapter, part_adapters
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.targets import PRESETS
from pydantic import ValidationError


@pytest.mark.parametrize("rank", [1, 8, 128])
def test_alpha_of_rank_is_a_scale_of_one_at_any_rank(rank: int) -> None:
    adapter = part_adapters(AdapterConfig(rank=rank), "sd")["denoiser"]
    assert adapter.alpha == rank
    assert adapter.scale == 1.0


def test_scales_of_fixed_alpha_and_of_rslora() -> None:
    fixed = part_adapters(AdapterConfig(rank=16, alpha=8), "sd")["denoiser"]
    stabilised = part_adapters(AdapterConfig(rank=16, alpha=8, rslora=True), "sd")["denoiser"]
    assert (fixed.scale, stabilised.scale) == (0.5, 2.0)


def test_text_encoders_take_the_preset_of_the_denoiser_where_they_have_it() -> None:
    authors = part_adapters(AdapterConfig(targets="authors", text_encoder=True), "pixart")
    assert authors["text_encoder"].targets == ("q", "k", "v", "o", "wi", "wo")
    assert authors["text_encoder"].absent == ("wi",)
    flux = part_adapters(AdapterConfig(targets="authors", text_encoder=True), "flux")
    assert flux["text_encoder"].targets == ("q_proj", "k_proj", "v_proj", "out_proj")
    mixed = part_adapters(AdapterConfig(targets="attention", text_encoder="paper"), "pixart")
    assert mixed["text_encoder"].targets == ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
    listed = part_adapters(AdapterConfig(targets=("to_q",), text_encoder=("fc1",)), "sdxl")
    assert [adapter.targets for adapter in listed.values()] == [("to_q",), ("fc1",), ("fc1",)]


def test_text_encoders_may_have_a_rank_of_their_own() -> None:
    adapters = part_adapters(AdapterConfig(rank=8, text_encoder=True, text_encoder_rank=4), "sdxl")
    assert {part: (a.rank, a.alpha) for part, a in adapters.items()} == {
        "denoiser": (8, 8),
        "text_encoder": (4, 4),
        "text_encoder_2": (4, 4),
    }


@pytest.mark.parametrize(
    ("dora", "on_denoiser", "on_text"),
    [("none", False, False), ("denoiser", True, False), ("text-encoder", False, True), ("both", True, True)],
)
def test_dora_is_chosen_per_part(dora: str, on_denoiser: bool, on_text: bool) -> None:
    config = AdapterConfig.model_validate({"dora": dora, "text_encoder": True})
    adapters = part_adapters(config, "sd")
    assert (adapters["denoiser"].dora, adapters["text_encoder"].dora) == (on_denoiser, on_text)


def test_every_preset_of_every_family_resolves() -> None:
    for family, parts in PRESETS.items():
        for name in parts["denoiser"]:
            assert part_adapters(AdapterConfig(targets=name), family)["denoiser"].targets


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rslora": True}, r"rslora divides alpha .* give adapter.alpha a number, such as 8"),
        ({"dora": "text-encoder"}, r"adapter.dora is 'text-encoder', but adapter.text_encoder is off"),
        ({"text_encoder_rank": 4}, r"text_encoder_rank is set, but adapter.text_encoder is off"),
        ({"text_encoder_blocks": 4}, r"text_encoder_blocks is set, but adapter.text_encoder is off"),
        ({"rank": 0}, r"rank\n.*greater than or equal to 1"),
        ({"alpha": 0}, r"greater than 0"),
        ({"alpha": "twice"}, r"alpha"),
        ({"dropout": 1.0}, r"dropout\n.*less than 1"),
        ({"targets": []}, r"targets"),
        ({"lora_alpha": 8}, r"lora_alpha\n.*Extra inputs"),
    ],
)
def test_settings_without_a_meaning_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdapterConfig.model_validate(section)


def test_a_list_of_a_recipe_is_read_as_targets() -> None:
    assert AdapterConfig.model_validate({"targets": ["to_q", "to_k"]}).targets == ("to_q", "to_k")


def test_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(
        AdapterError, match=r"'all' is no preset of pixart denoiser; known are attention, authors, paper"
    ):
        part_adapters(AdapterConfig(targets="all"), "pixart")


@pytest.mark.parametrize("family", ["hunyuan-dit", "kandinsky22-decoder", "dit", "msdm"])
def test_families_that_keep_their_text_encoder_frozen_say_so(family: str) -> None:
    with pytest.raises(AdapterError, match=rf"{family} keeps its text encoder frozen; turn it off"):
        part_adapters(AdapterConfig(text_encoder=True), family)  # type: ignore[arg-type]


def test_part_adapter_survives_json() -> None:
    adapter = PartAdapter(rank=4, alpha=0.5, targets=("to_q",), init="gaussian", dora=True, dropout=0.1)
    assert PartAdapter.model_validate_json(adapter.model_dump_json()) == adapter
