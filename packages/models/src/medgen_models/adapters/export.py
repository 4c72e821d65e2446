"""Adapters as the one LoRA file that ordinary diffusers pipelines load.

Only Stable Diffusion, SDXL and FLUX pipelines have a loader that works; for the others there are the PEFT folder
and merged weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from medgen_models.adapters.config import PartAdapter
from medgen_models.adapters.durable_files import write_replacing
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.targets import AdapterFamily
from medgen_models.adapters.wiring import KEY_PREFIX, adapter_of, adapter_state, is_adapted, peft_config

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"

# What each part is called in the file.
EXPORTED_PARTS: dict[AdapterFamily, dict[str, str]] = {
    "sd": {"denoiser": "unet", "text_encoder": "text_encoder"},
    "sdxl": {"denoiser": "unet", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"},
    "flux": {"denoiser": "transformer", "text_encoder": "text_encoder"},
}


def export_diffusers(parts: Mapping[str, nn.Module], file: Path, *, family: AdapterFamily) -> None:
    """Write the adapters of parts as a file for `pipeline.load_lora_weights(folder, weight_name=file.name)`.

    The scale is multiplied into B and alpha set to the rank, so a reader that overlooks the metadata is right too.
    The networks are not changed.

    Args:
        parts: Adapted networks by part name; a network without an adapter is left out.
        file: Where to write, usually a folder and `DIFFUSERS_FILE`; replaced as a whole.
        family: Family of the networks.

    Raises:
        AdapterError: If no diffusers pipeline of that family, or none with that part, loads LoRA files.
    """
    adapted = {part: module for part, module in parts.items() if is_adapted(module)}
    _check_exportable(adapted, family)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, object] = {}
    for part, module in adapted.items():
        prefix = EXPORTED_PARTS[family][part]
        adapter = adapter_of(module)
        for name, tensor in _unscaled_state(module, adapter).items():
            tensors[f"{prefix}.{_in_file(name, part)}"] = tensor
        metadata |= {f"{prefix}.{key}": value for key, value in _lora_config(module).items()}
    header = {"format": "pt", METADATA_KEY: json.dumps(metadata, indent=2, sort_keys=True)}
    write_replacing(file, safetensors.torch.save(tensors, metadata=header))


def _check_exportable(adapted: Mapping[str, nn.Module], family: AdapterFamily) -> None:
    if family not in EXPORTED_PARTS:
        raise AdapterError(
            f"diffusers loads no LoRA file into {family}; it does for {', '.join(EXPORTED_PARTS)}. "
            "Give the adapter folder, which PEFT loads, or merge the adapter into the model"
        )
    if not adapted:
        raise AdapterError("no part has an adapter to export; add or load one first")
    unknown = [part for part in adapted if part not in EXPORTED_PARTS[family]]
    if unknown:
        raise AdapterError(
            f"a LoRA file of {family} holds {', '.join(EXPORTED_PARTS[family])}, not {', '.join(unknown)}; "
            "merge the adapter into the model instead"
        )


@torch.no_grad()
def _unscaled_state(module: nn.Module, adapter: PartAdapter) -> dict[str, Tensor]:
    """Return the tensors of an adapter that has the same effect with a scale of one."""
    state = {}
    for name, tensor in adapter_state(module).items():
        scaled = tensor * adapter.scale if ".lora_B." in name else tensor.clone()
        state[name.removeprefix(KEY_PREFIX)] = scaled.cpu().contiguous()
    return state


def _in_file(name: str, part: str) -> str:
    if not part.startswith("text_encoder"):
        return name
    # CLIP text models have lost and kept their inner `text_model` over the years: files have it, loaders drop it.
    if not name.startswith("text_model."):
        name = f"text_model.{name}"
    # Text encoders are loaded by transformers, which looks for magnitudes under their full name only.
    return f"{name}.weight" if name.endswith(".lora_magnitude_vector") else name


def _lora_config(module: nn.Module) -> dict[str, object]:
    adapter, config = adapter_of(module), peft_config(module)
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "target_modules": sorted(adapter.targets),
        "use_dora": adapter.dora,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "layers_to_transform": config.layers_to_transform,
        "layers_pattern": config.layers_pattern,
    }
