"""Adapters (LoRA, DoRA, rsLoRA) for every generator family: settings, targets, wiring, folders, export."""

from medgen_models.adapters.config import AdapterConfig, PartAdapter, part_adapters
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.export import DIFFUSERS_FILE, export_diffusers
from medgen_models.adapters.folders import (
    AdapterFacts,
    AdapterRecord,
    load_adapter,
    read_adapter_record,
    save_adapter,
)
from medgen_models.adapters.targets import AdapterFamily
from medgen_models.adapters.wiring import (
    AdapterSize,
    adapter_of,
    adapter_parameters,
    adapter_state,
    add_adapter,
    add_adapters,
    is_adapted,
    merge_adapter,
    remove_adapter,
)

__all__ = [
    "DIFFUSERS_FILE",
    "AdapterConfig",
    "AdapterError",
    "AdapterFacts",
    "AdapterFamily",
    "AdapterRecord",
    "AdapterSize",
    "PartAdapter",
    "adapter_of",
    "adapter_parameters",
    "adapter_state",
    "add_adapter",
    "add_adapters",
    "export_diffusers",
    "is_adapted",
    "load_adapter",
    "merge_adapter",
    "part_adapters",
    "read_adapter_record",
    "remove_adapter",
    "save_adapter",
]
