"""The last blocks of a text encoder alone, from states below them that are computed once.

An adapter on the last k of n blocks changes nothing below them: what block n - k - 1 gives depends on the prompt
alone. A pass from there runs k blocks, the final norm and what follows, all by the network's own code, so masks,
pooling and projection are those of a whole pass.

Shapes: P prompts, B batch, L tokens, T width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK_LISTS = ("block", "layers")  # what T5 and CLIP call the list of their blocks
_ABSENT = object()


@dataclass(frozen=True)
class StatesBelow:
    """Tokens of prompts and the states that enter the last blocks of a text encoder; they lie on the CPU."""

    num_blocks: int  # k, that still run
    row_of_prompt: Mapping[str, int]
    ids: Tensor  # [P, L]
    mask: Tensor  # [P, L] bool, True on real tokens
    states: Tensor  # [P, L, T]

    def of_prompts(self, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids [B, L], masks [B, L] and states [B, L, T] on a device, without waiting for it.

        Raises:
            ValueError: If a prompt is not among those that were encoded.
        """
        unknown = [prompt for prompt in prompts if prompt not in self.row_of_prompt]
        if unknown:
            raise ValueError(
                f"the lower blocks of the text encoder rest and know {len(self.row_of_prompt)} prompts, but not "
                f"{unknown[0]!r:.80}; encode it with them, or set `below` of the encoder to None"
            )
        rows = [self.row_of_prompt[prompt] for prompt in prompts]
        chosen = [tensor[rows] for tensor in (self.ids, self.mask, self.states)]
        if device.type == "cuda":
            chosen = [tensor.pin_memory() for tensor in chosen]
        ids, mask, states = (tensor.to(device, non_blocking=True) for tensor in chosen)
        return ids, mask, states


def blocks_of(text_model: nn.Module) -> nn.ModuleList:
    """Return the blocks of a T5 or CLIP text model, in order.

    Raises:
        ValueError: If it is neither.
    """
    for name, module in text_model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in _BLOCK_LISTS:
            return module
    raise ValueError(
        f"{type(text_model).__name__} has no list of blocks named {' or '.join(_BLOCK_LISTS)}; only text models of "
        "T5 and CLIP can be run in part"
    )


def blocks_below(text_model: nn.Module, num_blocks: int) -> list[nn.Module]:
    """Return the blocks below the last `num_blocks`.

    Raises:
        ValueError: If there are none.
    """
    blocks = list(blocks_of(text_model))
    if not 0 <= num_blocks < len(blocks):
        raise ValueError(
            f"the last {num_blocks} of {len(blocks)} blocks of {type(text_model).__name__} leave none below them; "
            f"choose 0 to {len(blocks) - 1}"
        )
    return blocks[: len(blocks) - num_blocks]


def weights_below(text_model: nn.Module, num_blocks: int) -> dict[str, Tensor]:
    """Return the weights of a text model by name without those of its last blocks, whose adapters learn."""
    blocks = blocks_of(text_model)
    above = {id(weight) for block in blocks[len(blocks) - num_blocks :] for weight in block.parameters()}
    return {name: weight for name, weight in text_model.named_parameters() if id(weight) not in above}


@torch.no_grad()
def states_below(text_model: Any, ids: Tensor, mask: Tensor | None, num_blocks: int) -> Tensor:
    """Return the states that enter the last blocks of a text model, [B, L, T] in its dtype.

    Args:
        text_model: T5 or CLIP, in evaluation mode.
        ids: Token ids, [B, L].
        mask: True on tokens that are seen, [B, L]; None: all.
        num_blocks: How many blocks are the last ones; with 0, the states that enter the final norm.

    Raises:
        ValueError: If there are no blocks below.
    """
    lowest = blocks_below(text_model, num_blocks)[-1]
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = lowest.register_forward_hook(keep)
    try:
        text_model(input_ids=ids, attention_mask=mask)
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def resting_below(text_model: nn.Module, num_blocks: int, states: Tensor) -> Iterator[None]:
    """Let all but the last blocks of a text model give recalled states [B, L, T] instead of computing them.

    The embedding of tokens is still looked up, and forgotten. Modules and their names stay what they are.

    Raises:
        ValueError: If there are no blocks below.
    """
    resting = blocks_below(text_model, num_blocks)
    blocks = blocks_of(text_model)
    first: Any = blocks[0]
    is_t5 = hasattr(first, "layer")
    with ExitStack() as stack:
        for block in resting:
            # A block of T5 gives the position bias too; None lets the next block make its own.
            stack.enter_context(
                _replaced(block, "forward", _giving((states, None, None) if is_t5 else states))
            )
        if is_t5 and num_blocks:
            lowest: Any = blocks[len(resting)]
            lends, borrows = first.layer[0].SelfAttention, lowest.layer[0].SelfAttention
            bias = lends.relative_attention_bias
            stack.enter_context(_replaced(borrows, "relative_attention_bias", bias))
            stack.enter_context(_replaced(borrows, "has_relative_attention_bias", True))
        yield


def _giving(output: Any) -> Any:
    def forward(*inputs: Any, **options: Any) -> Any:
        del inputs, options
        return output

    return forward


@contextmanager
def _replaced(module: nn.Module, name: str, value: object) -> Iterator[None]:
    """Put an attribute before that of a module, unregistered, and take it away again."""
    own = vars(module)
    before = own.get(name, _ABSENT)
    own[name] = value
    try:
        yield
    finally:
        if before is _ABSENT:
            del own[name]
        else:
            own[name] = before
