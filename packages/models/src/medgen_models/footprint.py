"""What a training step costs, found on the meta device: no weights, no GPU, seconds.

Shapes only go through the model once, forwards and, where something learns, backwards. FLOPs count two per
multiplication and addition, of matrix products, convolutions and attention. Bytes are those of the storages that
autograd keeps for the backward pass, each counted once, weights left out. Two things are estimates: that attention
runs as a fused kernel, and that nothing but what autograd keeps is alive at the end of the forward pass.
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from medgen_models.architectures import architecture, example_inputs
from medgen_models.fused_attention import FusedAttention
from medgen_models.parameters import ParameterCounts, parameter_counts
from medgen_models.partial_text_encoder import blocks_below, resting_below
from medgen_models.saved_bytes import BlockWatch, SavedStorages, storage_address


@dataclass(frozen=True)
class CallCost:
    """One call of a part in one training step.

    Attributes:
        forward_flops: Of the forward pass.
        backward_flops: Of the backward pass; 0 where nothing learns.
        recompute_flops: Of the second forward pass of the blocks, if they are checkpointed.
        saved_bytes: Kept for the backward pass.
        boundary_bytes: Kept for the backward pass if blocks are checkpointed: their inputs, and what lies outside.
        block_bytes: Of the checkpointed block that keeps most, while it is computed again.
        largest_bytes: Of the largest single tensor kept.
        learns: Whether the part itself learns; otherwise gradients, if any, only pass through it.
    """

    forward_flops: int
    backward_flops: int
    recompute_flops: int
    saved_bytes: int
    boundary_bytes: int
    block_bytes: int
    largest_bytes: int
    learns: bool

    @property
    def checkpointed_bytes(self) -> int:
        """Kept at most at one time if blocks are checkpointed."""
        return self.boundary_bytes + self.block_bytes

    @property
    def has_blocks(self) -> bool:
        """Whether the part knows how to checkpoint its blocks."""
        return self.recompute_flops > 0


@dataclass(frozen=True)
class Footprint:
    """What a training step of B images costs, part by part.

    Attributes:
        batch_size: Images in the step, B.
        parameters: Counts by part, without text encoder blocks that rest.
        calls: Costs by call, `part` or `part.method`.
        latent_cache_bytes: What a cache keeps of one image.
        prompt_cache_bytes: What a cache keeps of one prompt.
        text_state_bytes: What a cache keeps of one prompt instead, where only last blocks of text encoders run.
    """

    batch_size: int
    parameters: Mapping[str, ParameterCounts]
    calls: Mapping[str, CallCost]
    latent_cache_bytes: int = 0
    prompt_cache_bytes: int = 0
    text_state_bytes: int = 0

    @property
    def gradient_bytes(self) -> int:
        """Gradients, in the dtype of what learns."""
        return sum(counts.trainable_bytes for counts in self.parameters.values())

    @property
    def optimizer_bytes(self) -> int:
        """Two moments for each parameter that learns, as AdamW keeps them."""
        return 2 * self.gradient_bytes

    @property
    def cacheable(self) -> tuple[str, ...]:
        """Parts that neither learn nor pass gradients on: their outputs can be kept instead of them."""
        needed = {part_of(call) for call, cost in self.calls.items() if cost.backward_flops}
        return tuple(part for part in self.parameters if part not in needed)

    def step_flops(self, *, checkpointing: bool, cached: Collection[str] = ()) -> int:
        """Return the FLOPs of one ordinary step; calls that only pass gradients on are not part of it.

        Args:
            checkpointing: Whether blocks that learn are computed twice.
            cached: Parts whose outputs come from a cache.
        """
        flops = 0
        for call, cost in self.calls.items():
            if part_of(call) in cached or (cost.backward_flops and not cost.learns):
                continue
            flops += cost.forward_flops + cost.backward_flops + checkpointing * cost.recompute_flops
        return flops

    def pixel_loss_flops(self, num_inference_steps: int) -> int:
        """Return the FLOPs of one loss on sampled pixels, its gradient taken back through the whole sampler.

        With guidance, each sampling step runs the denoiser on twice the batch: once to sample, and once more with
        its backward pass on the way back; prompts are encoded with and without text, and the images decoded once.

        Raises:
            ValueError: If decoding with a gradient was not measured.
        """
        if "vae.decode" not in self.calls:
            raise ValueError("a loss on pixels decodes latents: measure the footprint with decode=True")
        denoiser, decoder = self.calls["denoiser"], self.calls["vae.decode"]
        flops = decoder.forward_flops + decoder.backward_flops
        flops += 2 * num_inference_steps * (2 * denoiser.forward_flops + denoiser.backward_flops)
        for call, cost in self.calls.items():
            if part_of(call).startswith("text_encoder"):
                flops += 2 * (cost.forward_flops + cost.backward_flops)
        return flops


def part_of(call: str) -> str:
    """Return the part that a call is made to."""
    return call.split(".", maxsplit=1)[0]


def family_footprint(
    family: str,
    parts: Mapping[str, nn.Module],
    image_size: int | None = None,
    batch_size: int = 1,
    *,
    num_tokens: int | None = None,
    decode: bool = False,
    last_blocks: Mapping[str, int] | None = None,
) -> Footprint:
    """Measure a training step of a published family on the meta device.

    Args:
        family: Key of `architectures.ARCHITECTURES`.
        parts: Its parts on the meta device, or some of them, adapters put in and in the dtypes to train in; what
            requires gradients is what learns.
        image_size: Side in pixels; that of the published weights if none is given.
        batch_size: Images in the step.
        num_tokens: Prompt length; that of the family if none is given.
        decode: Whether the step also decodes latents with a gradient, as a loss on pixels needs it.
        last_blocks: How many blocks of some text encoders run, from states below them that are cached.

    Raises:
        ValueError: If the family is unknown, the sizes do not fit it, or no blocks are below those that run.
    """
    known = architecture(family)
    inputs = example_inputs(family, image_size, batch_size, num_tokens=num_tokens)
    inputs = {call: arguments for call, arguments in inputs.items() if part_of(call) in parts}
    if decode and "vae.decode" in inputs:
        inputs["vae.decode"] = tree_map_only(Tensor, Tensor.requires_grad_, inputs["vae.decode"])
    else:
        inputs.pop("vae.decode", None)
    last_blocks = last_blocks or {}
    resting = {part: blocks_below(parts[part], count) for part, count in last_blocks.items()}
    states = {part: _states_like(parts[part], inputs[part]["input_ids"]) for part in last_blocks}
    calls = {}
    for call, arguments in inputs.items():
        part, _, method = call.partition(".")
        with ExitStack() as stack:
            if part in states:
                stack.enter_context(resting_below(parts[part], last_blocks[part], states[part]))
            calls[call] = measure_call(parts[part], arguments, method or "forward")
    return Footprint(
        batch_size=batch_size,
        # The first block stays, because it lends its position bias.
        parameters={
            name: parameter_counts(part, without=resting.get(name, [])[1:]) for name, part in parts.items()
        },
        calls=calls,
        latent_cache_bytes=known.latent_cache_bytes(image_size or known.image_size),
        prompt_cache_bytes=known.prompt_cache_bytes(num_tokens or known.num_tokens),
        text_state_bytes=sum(tensor[0].nbytes for tensor in states.values()),
    )


def measure_call(module: nn.Module, inputs: Mapping[str, Any], method: str = "forward") -> CallCost:
    """Measure one call, and its backward pass if a parameter or an input requires gradients.

    Args:
        module: Where its weights lie on the meta device, nothing is computed. Left as it was found.
        inputs: Keyword arguments; floats are cast to the dtype of the weights.
        method: Name of the method called.

    Raises:
        ValueError: If gradients are asked for and no output depends on what requires them.
    """
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    receivers = learning + [leaf for leaf in tree_leaves(inputs) if _requires_grad(leaf)]
    not_saved = {storage_address(tensor) for tensor in (*module.parameters(), *module.buffers())}
    flops = FlopCounterMode(display=False)
    watch = BlockWatch(SavedStorages(not_saved), flops)
    watched = watch.installed_in(module) if receivers else nullcontext()
    with FusedAttention(), flops, torch.set_grad_enabled(bool(receivers)), watched:
        arguments = _cast_floats(inputs, next(module.parameters()).dtype)
        with watch.outside.hooks():
            output = getattr(module, method)(**arguments)
        forward_flops = flops.get_total_flops()
        if receivers:
            ends = [leaf.sum() for leaf in tree_leaves(output) if _requires_grad(leaf)]
            if not ends:
                raise ValueError(
                    f"{type(module).__name__}.{method}: no output depends on what requires gradients"
                )
            torch.autograd.grad(torch.stack(ends).sum(), receivers, allow_unused=True)
    everything = watch.outside.storages | watch.inside
    return CallCost(
        forward_flops=forward_flops,
        backward_flops=flops.get_total_flops() - forward_flops,
        recompute_flops=watch.recompute_flops,
        saved_bytes=sum(everything.values()),
        boundary_bytes=sum((watch.outside.storages | watch.boundary).values()),
        block_bytes=watch.largest_block,
        largest_bytes=max(everything.values(), default=0),
        learns=bool(learning),
    )


def _states_like(text_model: nn.Module, ids: Tensor) -> Tensor:
    """Return states [B, L, T] on the meta device for token ids [B, L]."""
    config: Any = text_model.config
    width = getattr(config, "hidden_size", None) or config.d_model
    return torch.empty(*ids.shape, width, dtype=next(text_model.parameters()).dtype, device="meta")


def _requires_grad(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _cast_floats(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return inputs whose floats have the dtype, connected to those given."""
    # Views, because the counter's hooks on what enters a module do not stand leaves.
    return tree_map_only(
        Tensor,
        lambda tensor: tensor.to(dtype).view_as(tensor) if tensor.is_floating_point() else tensor,
        dict(inputs),
    )
