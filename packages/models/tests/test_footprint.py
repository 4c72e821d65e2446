"""Footprints against closed forms, against torch's own checkpointing, and against figures measured elsewhere."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel
from medgen_models.adapters import PartAdapter, add_adapter
from medgen_models.architectures import ARCHITECTURES, FamilyName, build_parts, example_inputs
from medgen_models.footprint import CallCost, Footprint, family_footprint, measure_call
from medgen_models.fused_attention import FusedAttention
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
MED_ART = (
    *ATTENTION,
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "proj", "linear", "linear_1", "linear_2"),
)
T5_TARGETS = ("q", "k", "v", "o", "wo")
TERA, MIB = 1e12, 2**20


def with_adapter(module: nn.Module, targets: tuple[str, ...], rank: int = 8) -> nn.Module:
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(targets)), module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # adapters in float32 over a base in bfloat16
    return module


def adapted(family: FamilyName, part: str, targets: tuple[str, ...]) -> nn.Module:
    return with_adapter(build_parts(family, dtype=torch.bfloat16, only=[part])[part], targets)


@pytest.fixture(scope="module")
def med_art() -> Footprint:
    """Return the footprint of Med-Art's step at 512 px: adapters on the transformer and on T5."""
    parts = build_parts("pixart", dtype=torch.bfloat16)
    with_adapter(parts["denoiser"], MED_ART)
    with_adapter(parts["text_encoder"], T5_TARGETS)
    return family_footprint("pixart", parts, 512, decode=True)


def test_linear_layers_cost_what_their_shapes_say() -> None:
    layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).to("meta")
    cost = measure_call(layers, {"input": torch.empty(4, 5, device="meta")})
    assert cost.forward_flops == 2 * 4 * (5 * 7 + 7 * 3)
    # Both weights get gradients; of the inputs only that of the second layer does.
    assert cost.backward_flops == 2 * 4 * (5 * 7 + 7 * 3 + 7 * 3)
    # The first layer keeps its input; ReLU and the second layer keep one tensor between them.
    assert cost.saved_bytes == 4 * (4 * 5 + 4 * 7)
    assert cost.largest_bytes == 4 * 4 * 7
    assert cost.learns
    assert not cost.has_blocks


def test_frozen_parts_cost_one_forward_pass_and_keep_nothing() -> None:
    layers = nn.Linear(5, 7).to("meta").requires_grad_(False)
    cost = measure_call(layers, {"input": torch.empty(4, 5, device="meta")})
    assert cost == CallCost(2 * 4 * 5 * 7, 0, 0, 0, 0, 0, 0, learns=False)


def test_gradients_pass_through_a_frozen_part_that_does_not_learn() -> None:
    layers = nn.Linear(5, 7).to("meta").requires_grad_(False)
    cost = measure_call(layers, {"input": torch.empty(4, 5, device="meta", requires_grad=True)})
    assert cost.backward_flops == cost.forward_flops
    assert not cost.learns


class Deaf(nn.Module):
    """Learns a weight that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device="meta"))

    def forward(self, signal: Tensor) -> Tensor:
        return signal.detach()


def test_output_that_depends_on_nothing_learned_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Deaf\.forward: no output depends on what requires gradients"):
        measure_call(Deaf(), {"signal": torch.empty(2, device="meta")})


# The miniatures below have real weights: what autograd and torch's checkpoint really keep is counted on them.
def tiny_pixart() -> Any:
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
        use_additional_conditions=False,
    )


def pixart_inputs(device: str) -> dict[str, Any]:
    return {
        "hidden_states": torch.zeros(2, 4, 8, 8, device=device),
        "encoder_hidden_states": torch.zeros(2, 6, 12, device=device),
        "encoder_attention_mask": torch.ones(2, 6, device=device),
        "timestep": torch.zeros(2, dtype=torch.long, device=device),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def tiny_t5() -> Any:
    config = T5Config(
        vocab_size=32,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=3,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return T5EncoderModel(config)


def bytes_really_kept(module: nn.Module, run: Callable[[], Any]) -> int:
    """Return the bytes that autograd keeps of computed tensors, weights left out."""
    weights = {tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.numel() and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_bytes_kept_on_the_meta_device_are_those_kept_by_a_computation() -> None:
    # No attention inside: its kernels differ from device to device.
    shape = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    }
    computed = AutoencoderKL(**shape).requires_grad_(False)
    latents = torch.zeros(2, 4, 8, 8, requires_grad=True)
    kept = bytes_really_kept(computed, lambda: computed.decode(latents).sample)
    measured = measure_call(
        computed.to("meta"), {"z": torch.zeros(2, 4, 8, 8, device="meta", requires_grad=True)}, "decode"
    )
    assert kept == pytest.approx(measured.saved_bytes, rel=0.01)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_checkpointed_costs_are_those_of_torchs_own_checkpoint(library: str) -> None:
    module = tiny_pixart() if library == "diffusers" else tiny_t5()
    ids = torch.zeros(2, 6, dtype=torch.long)
    inputs = pixart_inputs("cpu") if library == "diffusers" else {"input_ids": ids}
    # A torch-function mode is off within `backward`; the second computation turns it on again.
    again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), FusedAttention())}
    if library == "diffusers":
        module.enable_gradient_checkpointing(gradient_checkpointing_func=partial(checkpoint, **again))
    else:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
    for child in module.modules():  # transformers checkpoints in training mode only; dropout stays off
        child.training = not isinstance(child, nn.Dropout)
    kept = bytes_really_kept(module, lambda: module(**inputs))

    module = module.to("meta")
    inputs = pixart_inputs("meta") if library == "diffusers" else {"input_ids": ids.to("meta")}
    with FusedAttention(), FlopCounterMode(display=False) as flops:
        output = module(**inputs)[0]
        forward = flops.get_total_flops()
        output.sum().backward()
        backward = flops.get_total_flops() - forward
    module.zero_grad()
    measured = measure_call(module, inputs)
    assert measured.has_blocks
    assert measured.forward_flops == forward
    assert measured.backward_flops + measured.recompute_flops == backward
    assert measured.boundary_bytes == pytest.approx(kept, rel=0.05)
    assert measured.checkpointed_bytes < measured.saved_bytes


def test_module_is_left_as_it_was_found() -> None:
    module = tiny_t5().to("meta").eval()
    before = [dict(vars(child)) for child in module.modules()]
    measure_call(module, {"input_ids": torch.zeros(1, 4, dtype=torch.long, device="meta")})
    assert [dict(vars(child)) for child in module.modules()] == before
    assert all(parameter.grad is None for parameter in module.parameters())


def test_costs_grow_with_the_batch() -> None:
    vae = build_parts("sd15", dtype=torch.bfloat16, only=["vae"])["vae"]
    one, three = (
        measure_call(vae, {"z": torch.empty(size, 4, 16, 16, device="meta", requires_grad=True)}, "decode")
        for size in (1, 3)
    )
    assert three.forward_flops == 3 * one.forward_flops
    assert three.saved_bytes == pytest.approx(3 * one.saved_bytes, rel=0.01)


# Family, call, targets; TFLOP forwards and backwards and MiB kept at 512 px, one image, 120 or 77 tokens.
MEASURED: list[tuple[FamilyName, str, tuple[str, ...], float, float, float]] = [
    ("pixart", "denoiser", (), 1.236, 0, 0),
    ("pixart", "denoiser", ATTENTION, 1.243, 1.448, 1563),
    ("pixart", "text_encoder", (), 1.117, 0, 0),
    ("sd15", "denoiser", (), 0.804, 0, 0),
    ("sd15", "denoiser", ATTENTION, 0.806, 0.975, 991),
    ("sd15", "vae.encode", (), 1.117, 0, 0),
]


@pytest.mark.parametrize(("family", "call", "targets", "forward", "backward", "mebibytes"), MEASURED)
def test_full_size_costs_are_those_measured_before(
    family: FamilyName,
    call: str,
    targets: tuple[str, ...],
    forward: float,
    backward: float,
    mebibytes: float,
) -> None:
    part, _, method = call.partition(".")
    if targets:
        module = adapted(family, part, targets)
    else:
        module = build_parts(family, dtype=torch.bfloat16, only=[part])[part]
    cost = measure_call(module, example_inputs(family, 512)[call], method or "forward")
    assert cost.forward_flops / TERA == pytest.approx(forward, rel=0.03)
    assert cost.backward_flops / TERA == pytest.approx(backward, rel=0.03)
    assert cost.saved_bytes / MIB == pytest.approx(mebibytes, rel=0.03)


def test_decoding_with_a_gradient_costs_what_was_measured_before(med_art: Footprint) -> None:
    cost = med_art.calls["vae.decode"]
    assert cost.forward_flops / TERA == pytest.approx(2.515, rel=0.03)
    assert cost.backward_flops / TERA == pytest.approx(2.566, rel=0.03)
    assert cost.saved_bytes / MIB == pytest.approx(2844, rel=0.03)
    assert not cost.learns


def test_med_art_step_costs_what_was_measured_before(med_art: Footprint) -> None:
    denoiser, text_encoder = med_art.calls["denoiser"], med_art.calls["text_encoder"]
    assert denoiser.forward_flops / TERA == pytest.approx(1.248, rel=0.03)
    assert denoiser.backward_flops / TERA == pytest.approx(1.485, rel=0.03)
    assert denoiser.saved_bytes / MIB == pytest.approx(2458, rel=0.03)
    assert text_encoder.forward_flops / TERA == pytest.approx(1.119, rel=0.03)
    assert text_encoder.backward_flops / TERA == pytest.approx(1.118, rel=0.03)
    assert (denoiser.backward_flops + denoiser.recompute_flops) / TERA == pytest.approx(2.732, rel=0.03)
    assert denoiser.boundary_bytes / MIB == pytest.approx(75, rel=0.03)
    # The published script checkpoints the transformer, but not T5.
    published = med_art.step_flops(checkpointing=False) + denoiser.recompute_flops
    assert published / TERA == pytest.approx(7.33, rel=0.03)
    cached = med_art.step_flops(checkpointing=False, cached=["vae"])
    assert published - cached == denoiser.recompute_flops + med_art.calls["vae.encode"].forward_flops


def test_colour_loss_through_twenty_steps_costs_what_was_measured_before(med_art: Footprint) -> None:
    assert med_art.pixel_loss_flops(num_inference_steps=20) / TERA == pytest.approx(167, rel=0.03)


def test_learning_parameters_have_gradients_and_two_moments(med_art: Footprint) -> None:
    assert med_art.gradient_bytes == 4 * (6_882_688 + 9_043_968)
    assert med_art.optimizer_bytes == 2 * med_art.gradient_bytes
    assert med_art.parameters["text_encoder"].bytes_by_dtype == {
        torch.bfloat16: 2 * 4_762_310_656,
        torch.float32: 4 * 9_043_968,
    }


def test_caches_are_counted_per_image_and_prompt(med_art: Footprint) -> None:
    assert med_art.latent_cache_bytes == 4 * 2 * 4 * 64 * 64
    assert med_art.prompt_cache_bytes == 4 * 120 * 4096


def test_blocks_that_rest_cost_nothing_and_leave_the_device_but_for_the_first(med_art: Footprint) -> None:
    parts = build_parts("pixart", dtype=torch.bfloat16, only=["text_encoder"])
    frozen = family_footprint("pixart", parts, 512)
    adapter = PartAdapter(rank=8, alpha=8, targets=("q", "v"), last_blocks=1)
    added = add_adapter(parts["text_encoder"], adapter, seed=0)
    whole = family_footprint("pixart", parts, 512)
    resting = family_footprint("pixart", parts, 512, last_blocks={"text_encoder": 1})
    saved = [each.calls["text_encoder"].forward_flops for each in (whole, resting)]
    assert saved[0] - saved[1] == frozen.calls["text_encoder"].forward_flops * 23 // 24
    assert resting.calls["text_encoder"].backward_flops == whole.calls["text_encoder"].backward_flops > 0
    assert resting.calls["text_encoder"].saved_bytes == whole.calls["text_encoder"].saved_bytes
    # Queries, keys, values and output; three layers of the feed-forward; two norms.
    block = 4 * 4096 * 4096 + 3 * 4096 * 10_240 + 2 * 4096
    assert resting.parameters["text_encoder"].bytes_by_dtype == {
        torch.bfloat16: 2 * (4_762_310_656 - 22 * block),
        torch.float32: 4 * added.num_parameters,
    }
    assert resting.text_state_bytes == 2 * 120 * 4096
    assert med_art.text_state_bytes == whole.text_state_bytes == 0


def test_only_parts_without_gradients_can_be_cached(med_art: Footprint) -> None:
    assert med_art.cacheable == ()  # the decoder of a loss on pixels is needed, frozen as it is
    frozen = family_footprint("kandinsky22-prior", build_parts("kandinsky22-prior"), 224)
    assert set(frozen.cacheable) == {"denoiser", "text_encoder", "image_encoder"}


def test_loss_on_pixels_needs_the_decoder() -> None:
    parts = build_parts("sd15", dtype=torch.bfloat16, only=["denoiser", "text_encoder"])
    with pytest.raises(ValueError, match="decode=True"):
        family_footprint("sd15", parts, 256).pixel_loss_flops(20)


# sd14 is sd15 with other weights.
@pytest.fixture(scope="module", params=[family for family in ARCHITECTURES if family != "sd14"])
def frozen_family(request: pytest.FixtureRequest) -> tuple[FamilyName, Footprint]:
    family: FamilyName = request.param
    return family, family_footprint(family, build_parts(family, dtype=torch.bfloat16), 256, decode=True)


def test_every_part_of_every_family_takes_its_example_inputs(
    frozen_family: tuple[FamilyName, Footprint],
) -> None:
    family, footprint = frozen_family
    assert set(footprint.parameters) == set(ARCHITECTURES[family].parts)
    assert set(footprint.calls) == set(example_inputs(family))
    assert all(cost.forward_flops > 1e9 for cost in footprint.calls.values())
