"""Which layers of which part get an adapter: the presets of the papers and the search for their layers.

A target is a module name or the end of one, cut at a dot: `to_out.0` means every `...to_out.0`.
"""

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from torch import nn

from medgen_models.adapters.errors import AdapterError

AdapterFamily = Literal[
    "pixart",
    "sd",
    "sdxl",
    "hunyuan-dit",
    "kandinsky22-prior",
    "kandinsky22-decoder",
    "kandinsky3",
    "flux",
    "dit",
    "msdm",
]

DENOISER: Final = "denoiser"
BLOCK_LISTS = ("block", "layers")  # what T5 and CLIP call the list of their blocks
ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class TargetPreset:
    """Ends of module names; `absent` are those of them that the model is known not to have."""

    suffixes: tuple[str, ...]
    absent: tuple[str, ...] = ()


def preset(family: AdapterFamily, part: str, name: str) -> TargetPreset:
    """Return the targets that a name stands for.

    Raises:
        AdapterError: If the family adapts no such part, or the part has no such preset.
    """
    presets = presets_of(family, part)
    if name not in presets:
        raise AdapterError(
            f"adapter.targets: {name!r} is no preset of {family} {part}; known are {', '.join(sorted(presets))}. "
            f"Ends of module names are given as a list: [{name}]"
        )
    return presets[name]


def presets_of(family: AdapterFamily, part: str) -> dict[str, TargetPreset]:
    """Return the presets of a part of a family by name.

    Raises:
        AdapterError: If the family adapts no such part.
    """
    if family not in PRESETS:
        raise AdapterError(
            f"unknown family {family!r}: adapters are known for {', '.join(get_args(AdapterFamily))}"
        )
    parts = PRESETS[family]
    if part not in parts:
        raise AdapterError(f"{family} has no adapter on {part!r}; its parts are {', '.join(parts)}")
    return parts[part]


def text_parts(family: AdapterFamily) -> tuple[str, ...]:
    """Return the names of the text encoders that a family may adapt."""
    return tuple(part for part in PRESETS[family] if part != DENOISER)


def matches(module_name: str, suffix: str) -> bool:
    """Say whether a module name is a suffix or ends with it after a dot."""
    return module_name == suffix or module_name.endswith(f".{suffix}")


def find_targets(
    module: nn.Module,
    suffixes: Iterable[str],
    *,
    absent: Iterable[str] = (),
    blocks: Collection[int] | None = None,
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Find the layers that targets name.

    Args:
        module: Network to search.
        suffixes: Targets.
        absent: Those of them that may name nothing.
        blocks: Indices of the blocks that count; all modules if none are given.

    Returns:
        The layers by name in the order of the model, and the suffixes of `absent` that named none.

    Raises:
        AdapterError: If any other suffix names nothing, or a module that is no linear layer or convolution.
    """
    modules = {
        name: child
        for name, child in module.named_modules()
        if name and (blocks is None or _block_of(name) in blocks)
    }
    unmatched = []
    suffixes = tuple(suffixes)
    for suffix in suffixes:
        named = [name for name in modules if matches(name, suffix)]
        if not named and suffix in absent:
            unmatched.append(suffix)
        elif not named:
            raise AdapterError(_nothing_matches(module, modules, suffix))
        for name in named:
            if not isinstance(modules[name], ADAPTABLE):
                raise AdapterError(_not_a_layer(module, modules, suffix, name))
    targets = {n: child for n, child in modules.items() if any(matches(n, suffix) for suffix in suffixes)}
    return targets, tuple(unmatched)


def last_blocks(module: nn.Module, count: int) -> list[int]:
    """Return the indices of the last blocks of a text encoder.

    Raises:
        AdapterError: If it has fewer blocks, or none that can be told apart.
    """
    indices = {_block_of(name) for name, _ in module.named_modules()} - {None}
    depth = len(indices)
    if not 1 <= count <= depth:
        raise AdapterError(
            f"the last {count} blocks of {type(module).__name__} are to be adapted, but it has {depth}; "
            "set adapter.text_encoder_blocks to fewer, or leave it out for all"
        )
    return list(range(depth - count, depth))


def _block_of(name: str) -> int | None:
    found = re.search(rf"(?:^|\.)(?:{'|'.join(BLOCK_LISTS)})\.(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def _adaptable(modules: dict[str, nn.Module]) -> list[str]:
    return [name for name, module in modules.items() if isinstance(module, ADAPTABLE)]


def _nothing_matches(module: nn.Module, modules: dict[str, nn.Module], suffix: str) -> str:
    return (
        f"adapter target {suffix!r} matches no module of {type(module).__name__}; "
        f"the nearest names that could take an adapter are {_nearest(modules, suffix)}"
    )


def _not_a_layer(module: nn.Module, modules: dict[str, nn.Module], suffix: str, name: str) -> str:
    inside = [layer for layer in _adaptable(modules) if layer.startswith(f"{name}.")]
    kind = type(modules[name]).__name__
    return (
        f"adapter target {suffix!r} names {name} of {type(module).__name__}, a {kind}; only linear layers and "
        f"convolutions take an adapter, such as {_listed(inside) or _nearest(modules, suffix)}"
    )


def _nearest(modules: dict[str, nn.Module], suffix: str) -> str:
    # Ends of the same length in dots, since that is what a suffix is compared with.
    length = suffix.count(".") + 1
    ends = sorted({".".join(name.split(".")[-length:]) for name in _adaptable(modules)})
    return _listed(difflib.get_close_matches(suffix, ends, n=5, cutoff=0.3) or ends)


def _listed(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


_QKVO = TargetPreset(("to_k", "to_q", "to_v", "to_out.0"))

_PIXART_AUTHORS = (
    "to_k", "to_q", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "proj", "linear", "linear_1", "linear_2",
)  # fmt: skip
_FLUX_AUTHORS = (
    "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0",
    "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)  # fmt: skip

# Med-Art adapts q, k, v, o and the feed-forward of T5; its code writes `wi`, which the gated T5 v1.1 splits in two.
_T5 = {
    "authors": TargetPreset(("q", "k", "v", "o", "wi", "wo"), absent=("wi",)),
    "paper": TargetPreset(("q", "k", "v", "o", "wi_0", "wi_1", "wo")),
    "attention": TargetPreset(("q", "k", "v", "o")),
}
_CLIP = {"attention": TargetPreset(("q_proj", "k_proj", "v_proj", "out_proj"))}

PRESETS: dict[AdapterFamily, dict[str, dict[str, TargetPreset]]] = {
    # Med-Art: `paper` is the wording of its text (attention and feed-forward), `authors` what its code names.
    "pixart": {
        DENOISER: {
            "authors": TargetPreset(_PIXART_AUTHORS, absent=("proj_in",)),
            "paper": TargetPreset((*_QKVO.suffixes, "ff.net.0.proj", "ff.net.2")),
            "attention": _QKVO,
        },
        "text_encoder": _T5,
    },
    "sd": {DENOISER: {"attention": _QKVO}, "text_encoder": _CLIP},
    "sdxl": {DENOISER: {"attention": _QKVO}, "text_encoder": _CLIP, "text_encoder_2": _CLIP},
    "hunyuan-dit": {DENOISER: {"attention": _QKVO}},
    # MMCP's code names these four for all three networks of Kandinsky.
    "kandinsky22-prior": {DENOISER: {"authors": _QKVO, "attention": _QKVO}, "text_encoder": _CLIP},
    "kandinsky22-decoder": {DENOISER: {"authors": _QKVO, "attention": _QKVO}},
    "kandinsky3": {DENOISER: {"authors": _QKVO, "attention": _QKVO}, "text_encoder": _T5},
    # The twelve targets whose count is that of Prompt to Polyp, table 4: 2,801,664 parameters per rank.
    "flux": {
        DENOISER: {
            "authors": TargetPreset(_FLUX_AUTHORS),
            "attention": _QKVO,
        },
        "text_encoder": _CLIP,
    },
    "dit": {DENOISER: {"attention": TargetPreset(("attention.qkv", "attention.to_out"))}},
    "msdm": {
        DENOISER: {
            "attention": _QKVO,
            "feed-forward": TargetPreset((*_QKVO.suffixes, "feed_forward.0", "feed_forward.2")),
        }
    },
}
