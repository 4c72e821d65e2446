"""The pretrained model of an adapter: loaded by itself for training, with its adapter merged in for sampling."""

from pathlib import Path
from typing import Any, Literal

import torch

from medgen_models.adapters import load_adapter, merge_adapter, read_adapter_record
from medgen_models.adapters.folders import AdapterFacts
from medgen_models.errors import UnusableModelError
from medgen_models.loading import load_base, model_sha256
from medgen_models.model_source import ModelSource

BaseDtype = Literal["float32", "bfloat16"]
DTYPES: dict[BaseDtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_pretrained(facts: AdapterFacts, *, dtype: BaseDtype = "float32", device: str = "cpu") -> Any:
    """Load the base model that an adapter belongs to, frozen, onto a device.

    Raises:
        MissingModelError: If it is not to be had.
        UnusableModelError: If it is of another family, its weights are pickled, or the family does not know an
            option.
    """
    options: dict[str, Any] = facts.base_options.model_dump(exclude_none=True)
    if (prior := options.pop("prior", None)) is not None:
        options["prior_source"] = ModelSource(prior, dtype=DTYPES[dtype])
    source = ModelSource(facts.base_model, facts.base_revision, DTYPES[dtype])
    return load_base(source, family=facts.family, device=device, options=options)


def base_sha256(name_or_dir: str) -> str | None:
    """Return the hash of a local folder; None for a hub name, which its revision pins."""
    return model_sha256(Path(name_or_dir)) if Path(name_or_dir).is_dir() else None


def load_adapted(
    adapter_dir: Path,
    *,
    base: str | None = None,
    dtype: BaseDtype = "float32",
    device: str = "cpu",
    merge: bool = True,
) -> Any:
    """Load an adapter with its base model.

    Args:
        adapter_dir: Folder that training left.
        base: Where the base model is now, if not where it was in training.
        dtype: Of the merged weights.
        device: Where to.
        merge: Add the adapter to the base weights; else its layers stay beside them, which is slower to sample.

    Raises:
        AdapterError: If the adapter does not fit the base, or the base's weights are others than in training.
        MissingModelError: If adapter or base are not to be had.
        UnusableModelError: If the base is of another family, or its weights are pickled.
    """
    facts = AdapterFacts(
        **read_adapter_record(adapter_dir).model_dump(include=set(AdapterFacts.model_fields))
    )
    if base is not None:
        facts = facts.model_copy(update={"base_model": base})
    if facts.base_sha256 is not None and not Path(facts.base_model).is_dir():
        raise UnusableModelError(
            f"{adapter_dir}: was trained on the folder {facts.base_model}, which is not here; say where it is now "
            "with --base"
        )
    # In float32 first: merging into bfloat16 would round the adapter away.
    model = load_pretrained(facts, device=device)
    parts = model.components()
    record = load_adapter(adapter_dir, parts, family=facts.family, base_sha256=base_sha256(facts.base_model))
    for part in record.parts if merge else ():
        merge_adapter(parts[part])
    if dtype != "float32":
        for module in parts.values():
            module.to(DTYPES[dtype])
    return model
