import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from medgen_models.adapters.config import AdapterConfig, PartAdapter, part_adapters
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.wiring import (
    adapted_layers,
    adapter_of,
    adapter_parameters,
    adapter_state,
    add_adapter,
    add_adapters,
    merge_adapter,
    remove_adapter,
)
from torch import nn

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "fixed-alpha": {"alpha": 3.5},
    "gaussian": {"init": "gaussian"},
    "rslora": {"rslora": True, "alpha": 4},
    "dora": {"dora": "denoiser"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def adapter_for(family: Any, kind: str) -> PartAdapter:
    return part_adapters(AdapterConfig(rank=2, **KINDS[kind]), family)["denoiser"]


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Conv2d(1, 3, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.second(self.first(rows)[:, None, :, None])
        return output


@every_kind
def test_training_moves_the_adapter_and_never_the_base(miniature: Any, kind: str) -> None:
    module = miniature.module
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    module.requires_grad_(False)  # convolutions round differently when their weights ask for gradients
    output = miniature.call(module)
    size = add_adapter(module, adapter_for(miniature.family, kind), seed=1)

    assert type(module) is type(miniature.module)
    assert not any(child.training for child in module.modules())
    torch.testing.assert_close(miniature.call(module), output, rtol=1e-5, atol=1e-5)
    parameters = adapter_parameters(module)
    assert {id(p) for p in module.parameters() if p.requires_grad} == {id(p) for p in parameters}
    assert (size.num_modules, size.num_parameters) == (
        len(adapted_layers(module)),
        sum(parameter.numel() for parameter in parameters),
    )
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        miniature.call(module).square().mean().backward()
        if step == 0:
            blocked = [
                name
                for name, parameter in module.named_parameters()
                if ".lora_B." in name and (parameter.grad is None or not parameter.grad.any())
            ]
            assert blocked == []
        optimizer.step()
    assert not torch.allclose(miniature.call(module), output, rtol=1e-5, atol=1e-5)
    remove_adapter(module)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert torch.equal(miniature.call(module), output)


@every_kind
@torch.no_grad()
def test_merging_changes_the_weights_and_not_the_output(
    miniature: Any, kind: str, shake: Callable[[nn.Module], None]
) -> None:
    names = [name for name, _ in miniature.module.named_modules()]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        module = copy.deepcopy(miniature.module).to(dtype)
        unadapted = miniature.call(module)
        add_adapter(module, adapter_for(miniature.family, kind), seed=1)
        shake(module)
        adapted = miniature.call(module)
        merge_adapter(module)
        scale = float(adapted.abs().max())
        assert float((miniature.call(module) - adapted).abs().max()) <= tolerance * scale
        assert float((adapted - unadapted).abs().max()) > 1e-3 * scale
        assert [name for name, _ in module.named_modules()] == names
        assert not hasattr(module, "peft_config")
        assert type(module) is type(miniature.module)


@every_kind
@torch.no_grad()
def test_merged_weights_of_a_layer_are_within_1e_6(kind: str, shake: Callable[[nn.Module], None]) -> None:
    module, rows = TwoLayers().eval(), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    adapter = adapter_for("sd", kind).model_copy(update={"targets": ("first", "second")})
    add_adapter(module, adapter, seed=0)
    shake(module)
    adapted = module(rows)
    merge_adapter(module)
    assert float((module(rows) - adapted).abs().max()) <= 1e-6


@every_kind
def test_bfloat16_base_keeps_its_dtype_and_its_output_under_a_float32_adapter(
    miniature: Any, kind: str
) -> None:
    module = miniature.module.bfloat16()
    output = miniature.call(module)
    add_adapter(module, adapter_for(miniature.family, kind), seed=1)
    assert {parameter.dtype for parameter in adapter_parameters(module)} == {torch.float32}
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert torch.equal(miniature.call(module), output)


@every_kind
@pytest.mark.parametrize(
    ("family", "targets"),
    [("pixart", "authors"), ("pixart", "paper"), ("flux", "authors"), ("msdm", "feed-forward")],
)
def test_presets_with_convolutions_and_feed_forwards_train_and_merge(
    new_miniature: Callable[..., Any],
    shake: Callable[[nn.Module], None],
    family: Any,
    targets: str,
    kind: str,
) -> None:
    miniature = new_miniature(family)
    module = miniature.module.double()
    config = AdapterConfig(rank=2, targets=targets, **KINDS[kind])
    add_adapter(module, part_adapters(config, family)["denoiser"], seed=1)
    miniature.call(module).square().mean().backward()
    gradients = {n: p.grad for n, p in module.named_parameters() if ".lora_B." in n}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
    shake(module)
    adapted = miniature.call(module)
    merge_adapter(module)
    torch.testing.assert_close(miniature.call(module), adapted, rtol=1e-10, atol=1e-12)


def test_lora_is_the_formula_of_the_paper(shake: Callable[[nn.Module], None]) -> None:
    module, rows = TwoLayers().double().eval(), torch.randn(4, 6).double()
    adapter = PartAdapter(rank=2, alpha=3, targets=("first",))
    add_adapter(module, adapter, seed=0)
    shake(module)
    state = {name.rpartition("first.")[2]: tensor for name, tensor in adapter_state(module).items()}
    a, b = state["lora_A.weight"], state["lora_B.weight"]
    base: Any = module.first.base_layer
    torch.testing.assert_close(module.first(rows), base(rows) + 1.5 * rows @ a.T @ b.T)


def test_dora_is_the_formula_of_the_paper(shake: Callable[[nn.Module], None]) -> None:
    module, rows = TwoLayers().double().eval(), torch.randn(4, 6).double()
    add_adapter(module, PartAdapter(rank=2, alpha=2, targets=("first",), dora=True), seed=0)
    shake(module)
    state = {name.rpartition("first.")[2]: tensor for name, tensor in adapter_state(module).items()}
    base: Any = module.first.base_layer
    direction = base.weight + state["lora_B.weight"] @ state["lora_A.weight"]
    weight = state["lora_magnitude_vector"][:, None] * direction / direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close(module.first(rows), rows @ weight.T + base.bias)


def test_gaussian_start_has_the_deviation_of_one_over_rank() -> None:
    module = nn.Sequential(nn.Linear(4000, 8))
    add_adapter(module, PartAdapter(rank=16, alpha=16, targets=("0",), init="gaussian"), seed=0)
    state = adapter_state(module)
    assert float(state["base_model.model.0.lora_A.weight"].std()) == pytest.approx(1 / 16, rel=0.02)
    assert not state["base_model.model.0.lora_B.weight"].any()


def test_start_is_a_function_of_the_seed_alone(new_miniature: Callable[..., Any]) -> None:
    adapter = adapter_for("sd", "gaussian")
    modules = [new_miniature("sd").module for _ in range(3)]
    state = torch.get_rng_state()
    for module, seed in zip(modules, (1, 1, 2), strict=True):
        add_adapter(module, adapter, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, second, other = (adapter_state(module) for module in modules)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_parts_start_from_numbers_of_their_own(
    new_miniature: Callable[..., Any], new_clip: Callable[..., nn.Module]
) -> None:
    def adapted(*, with_text: bool) -> dict[str, nn.Module]:
        parts = {"denoiser": new_miniature("sd").module, "text_encoder": new_clip(with_projection=False)}
        sizes = add_adapters(parts, AdapterConfig(rank=2, text_encoder=with_text), family="sd", seed=7)
        assert list(sizes) == (["denoiser", "text_encoder"] if with_text else ["denoiser"])
        return parts

    alone, both = adapted(with_text=False), adapted(with_text=True)
    first, second = adapter_state(alone["denoiser"]), adapter_state(both["denoiser"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    text = adapter_state(both["text_encoder"])
    # Layers of the same shape: had both parts one stream of numbers, their first A would be equal.
    first_of_text = next(tensor for name, tensor in text.items() if "lora_A" in name)
    assert not any(torch.equal(first_of_text, tensor) for tensor in first.values())


def test_counts_on_the_meta_device_are_those_of_real_weights(miniature: Any) -> None:
    for kind in ("lora", "dora"):
        adapter = adapter_for(miniature.family, kind)
        on_meta = copy.deepcopy(miniature.module).to("meta")
        real = copy.deepcopy(miniature.module)
        assert add_adapter(on_meta, adapter, seed=0) == add_adapter(real, adapter, seed=0)
        assert all(parameter.is_meta for parameter in on_meta.parameters())


def test_size_is_rank_times_the_sides_of_each_layer() -> None:
    module = TwoLayers()
    size = add_adapter(module, PartAdapter(rank=2, alpha=2, targets=("first", "second")), seed=0)
    assert (size.num_modules, size.num_parameters) == (2, 2 * (6 + 5) + 2 * (1 + 3))


def test_training_mode_of_the_network_is_that_of_its_adapter() -> None:
    module = TwoLayers().train()
    add_adapter(module, PartAdapter(rank=2, alpha=2, targets=("first",), dropout=0.5), seed=0)
    assert all(child.training for child in module.modules())


def test_dropout_acts_in_training_only(shake: Callable[[nn.Module], None]) -> None:
    module, rows = TwoLayers().eval(), torch.randn(64, 6)
    add_adapter(module, PartAdapter(rank=2, alpha=2, targets=("first",), dropout=0.5), seed=0)
    shake(module)
    torch.testing.assert_close(module(rows), module(rows), rtol=0, atol=0)
    module.train()
    assert not torch.equal(module(rows), module(rows))


def test_unmatched_targets_that_are_known_are_reported_and_not_kept(new_t5: Callable[..., nn.Module]) -> None:
    module = new_t5(gated=True)
    adapter = part_adapters(AdapterConfig(targets="authors", text_encoder=True), "pixart")["text_encoder"]
    assert add_adapter(module, adapter, seed=0).unmatched == ("wi",)
    assert adapter_of(module).targets == ("k", "o", "q", "v", "wo")


def test_states_below_the_last_blocks_do_not_depend_on_the_adapter(
    new_t5: Callable[..., nn.Module], shake: Callable[[nn.Module], None]
) -> None:
    module, ids = new_t5(gated=True).requires_grad_(False), torch.tensor([[5, 6, 7, 1]])
    before = module(ids, output_hidden_states=True).hidden_states
    config = AdapterConfig(rank=2, targets="authors", text_encoder=True, text_encoder_blocks=1)
    size = add_adapter(module, part_adapters(config, "pixart")["text_encoder"], seed=0)
    shake(module)
    after = module(ids, output_hidden_states=True).hidden_states
    assert size.num_modules == 5
    assert all(".block.1." in name for name in adapted_layers(module))
    assert torch.equal(after[1], before[1])  # what the first of the two blocks gives
    assert not torch.allclose(after[2], before[2])


def test_description_of_an_adapter_is_what_was_asked_for() -> None:
    module = TwoLayers()
    adapter = PartAdapter(
        rank=2, alpha=0.5, targets=("first", "second"), init="gaussian", dropout=0.1, dora=True, rslora=True
    )
    add_adapter(module, adapter, seed=0)
    assert adapter_of(module) == adapter


def test_second_adapter_is_refused(new_miniature: Callable[..., Any]) -> None:
    module, adapter = new_miniature("sd").module, adapter_for("sd", "lora")
    add_adapter(module, adapter, seed=0)
    with pytest.raises(AdapterError, match=r"UNet2DConditionModel has an adapter already; merge it"):
        add_adapter(module, adapter, seed=0)


def test_failed_search_leaves_the_network_alone(new_miniature: Callable[..., Any]) -> None:
    module = new_miniature("sd").module
    names = [name for name, _ in module.named_modules()]
    with pytest.raises(AdapterError, match=r"'nowhere' matches no module"):
        add_adapter(module, PartAdapter(rank=2, alpha=2, targets=("to_q", "nowhere")), seed=0)
    assert [name for name, _ in module.named_modules()] == names
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_network_without_an_adapter_cannot_be_merged_or_read() -> None:
    for act in (merge_adapter, remove_adapter, adapter_state, adapter_of):
        with pytest.raises(AdapterError, match=r"TwoLayers has no adapter; add one first"):
            act(TwoLayers())


def test_merging_infinite_weights_is_refused() -> None:
    module = TwoLayers()
    add_adapter(module, PartAdapter(rank=2, alpha=2, targets=("first",)), seed=0)
    with torch.no_grad():
        adapter_parameters(module)[1].fill_(float("inf"))
    with pytest.raises(AdapterError, match=r"TwoLayers.first: merged weights are not finite"):
        merge_adapter(module)


def test_missing_part_is_named(new_miniature: Callable[..., Any]) -> None:
    parts = {"denoiser": new_miniature("sdxl").module}
    with pytest.raises(AdapterError, match=r"but got only denoiser; load text_encoder, text_encoder_2 too"):
        add_adapters(parts, AdapterConfig(text_encoder=True), family="sdxl", seed=0)
