"""Put adapters into a network, read them, and merge them into its weights.

The network keeps its class and its other modules; only here is PEFT known.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from medgen_models.adapters.config import AdapterConfig, PartAdapter, part_adapters
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.targets import BLOCK_LISTS, AdapterFamily, find_targets, last_blocks

NAME = "default"  # PEFT's name for the one adapter of a network
KEY_PREFIX = "base_model.model."  # what a wrapping PeftModel puts before the names of the network


@dataclass(frozen=True)
class AdapterSize:
    """What an adapter adds to a network; `unmatched` are targets that named nothing there."""

    num_modules: int
    num_parameters: int
    unmatched: tuple[str, ...] = ()


def add_adapters(
    parts: Mapping[str, nn.Module], config: AdapterConfig, *, family: AdapterFamily, seed: int
) -> dict[str, AdapterSize]:
    """Add adapters to all parts that a config wants adapted, in place.

    Each part starts from numbers of its own, which do not depend on the other parts.

    Args:
        parts: Networks by part name: `denoiser`, `text_encoder`, `text_encoder_2`.
        config: The recipe's adapter section.
        family: Whose presets are meant.
        seed: Seed of the start.

    Raises:
        AdapterError: If a part is missing or its targets do not fit.
    """
    adapters = part_adapters(config, family)
    missing = [part for part in adapters if part not in parts]
    if missing:
        raise AdapterError(
            f"{family} adapts {', '.join(adapters)}, but got only {', '.join(parts) or 'nothing'}; "
            f"load {', '.join(missing)} too"
        )
    return {
        part: add_adapter(parts[part], adapter, seed=_part_seed(seed, part))
        for part, adapter in adapters.items()
    }


def add_adapter(module: nn.Module, adapter: PartAdapter, *, seed: int) -> AdapterSize:
    """Add an adapter to a network in place: base frozen, adapter trainable and in float32.

    Until it is trained, the network computes what it did. Works on the meta device, where sizes are counted.

    Args:
        module: Network with weights of any float dtype, without an adapter.
        adapter: What to add.
        seed: Seed of A; B is zero.

    Raises:
        AdapterError: If there is an adapter already, or a target fits no layer.
    """
    if is_adapted(module):
        raise AdapterError(
            f"{type(module).__name__} has an adapter already; merge it or load the model afresh first"
        )
    blocks = None if adapter.last_blocks is None else last_blocks(module, adapter.last_blocks)
    _, unmatched = find_targets(module, adapter.targets, absent=adapter.absent, blocks=blocks)
    suffixes = [suffix for suffix in adapter.targets if suffix not in unmatched]
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
        inject_adapter_in_model(
            _new_peft_config(adapter, suffixes, blocks), module, NAME, low_cpu_mem_usage=on_meta
        )
    layers = adapted_layers(module)
    module.requires_grad_(False)
    for layer in layers.values():
        layer.train(layer.get_base_layer().training)
        _make_trainable(layer)
    parameters = adapter_parameters(module)
    return AdapterSize(len(layers), sum(parameter.numel() for parameter in parameters), unmatched)


def is_adapted(module: nn.Module) -> bool:
    """Say whether a network carries an adapter."""
    return any(isinstance(child, LoraLayer) for child in module.modules())


def adapted_layers(module: nn.Module) -> dict[str, LoraLayer]:
    """Return the adapted layers of a network by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, LoraLayer)}


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the adapter's parameters, a list that may be walked twice: by an optimizer and by clipping."""
    return [
        parameter
        for layer in adapted_layers(module).values()
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    ]


def adapter_of(module: nn.Module) -> PartAdapter:
    """Return what kind of adapter a network carries.

    Raises:
        AdapterError: If it carries none.
    """
    if not is_adapted(module):
        raise AdapterError(f"{type(module).__name__} has no adapter; add one first")
    config = peft_config(module)
    return PartAdapter(
        rank=config.r,
        alpha=config.lora_alpha,
        targets=tuple(sorted(config.target_modules)),
        init="gaussian" if config.init_lora_weights == "gaussian" else "default",
        dropout=config.lora_dropout,
        dora=config.use_dora,
        rslora=config.use_rslora,
        last_blocks=None if config.layers_to_transform is None else len(config.layers_to_transform),
    )


def peft_config(module: nn.Module) -> Any:
    """Return PEFT's own description of the adapter of a network."""
    configs: Any = module.peft_config
    return configs[NAME]


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's tensors, not copied, under the names a PEFT folder gives them."""
    adapter_of(module)
    state = get_peft_model_state_dict(module, adapter_name=NAME, save_embedding_layers=False)
    return {KEY_PREFIX + name: tensor for name, tensor in state.items()}


def merge_adapter(module: nn.Module) -> None:
    """Add the adapter to the base weights, in place, and take its layers out.

    W' = W + scale B A; with DoRA the rows are brought to the learned magnitude.

    Raises:
        AdapterError: If there is no adapter, or a merged weight would not be finite.
    """
    adapter_of(module)
    for name, layer in adapted_layers(module).items():
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise AdapterError(
                f"{type(module).__name__}.{name}: merged weights are not finite; load an earlier checkpoint"
            ) from error
    remove_adapter(module)


def remove_adapter(module: nn.Module) -> None:
    """Take the layers of an adapter out, in place; the base weights stay as they are.

    Raises:
        AdapterError: If there is no adapter.
    """
    adapter_of(module)
    for name, layer in adapted_layers(module).items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())
    del module.peft_config


def _new_peft_config(adapter: PartAdapter, suffixes: list[str], blocks: list[int] | None) -> LoraConfig:
    alpha = int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=alpha,
        target_modules=suffixes,
        init_lora_weights="gaussian" if adapter.init == "gaussian" else True,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        use_rslora=adapter.rslora,
        layers_to_transform=blocks,
        layers_pattern=None if blocks is None else list(BLOCK_LISTS),
    )


def _part_seed(seed: int, part: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {part}".encode()).digest()[:8], "big") >> 1


@torch.no_grad()
def _make_trainable(layer: LoraLayer) -> None:
    """Make the adapter of a layer trainable and at least float32: PEFT gives it the dtype of the base.

    In bfloat16 a step of 1e-4 vanishes beside a weight of 0.03.
    """
    for name, parameter in layer.named_parameters():
        if not name.startswith("base_layer."):
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.requires_grad_(True)
    for magnitude in layer.lora_magnitude_vector.values():
        # The forward pass takes norms in float32; a magnitude rounded to bfloat16 would not be equal to them.
        weight = layer.get_base_layer().weight.to(magnitude.weight.dtype)
        norms = weight.flatten(1).norm(dim=1)
        magnitude.weight.copy_(norms.reshape(magnitude.weight.shape))
