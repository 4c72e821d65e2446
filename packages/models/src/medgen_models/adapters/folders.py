"""Adapters on disk: one PEFT folder per part, and `adapter.json` which says what they belong to.

    adapter/
        adapter.json                            family, base model, parts with rank, alpha and targets
        denoiser/adapter_config.json            as PEFT writes it, alpha included
        denoiser/adapter_model.safetensors
        text_encoder/...                        only if it was adapted

Any PEFT user can load a part with `PeftModel.from_pretrained(base, folder / "denoiser")`.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from medgen_models.adapters.config import PartAdapter
from medgen_models.adapters.durable_files import flush_folder, write_flushed
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.targets import AdapterFamily
from medgen_models.adapters.wiring import (
    adapter_of,
    adapter_state,
    add_adapter,
    is_adapted,
    peft_config,
    remove_adapter,
)
from medgen_models.errors import MissingModelError

RECORD_FILE = "adapter.json"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LIBRARIES = ("torch", "diffusers", "transformers", "peft")


class BaseOptions(BaseModel):
    """How a base model is read beyond its defaults; None keeps a default.

    Attributes:
        image_size: Side of the images in pixels.
        max_tokens: Longest prompt in tokens.
        lower_case: Lower-case prompts before they are encoded.
        prior: The prior of Kandinsky 2.2's decoder: hub name or folder.
        prior_noise_schedule: Noise levels of Kandinsky 2.2's prior: those of MMCP's code, or its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int | None = Field(default=None, ge=8)
    max_tokens: int | None = Field(default=None, ge=2)
    lower_case: bool | None = None
    prior: str | None = None
    prior_noise_schedule: Literal["authors", "unclip"] | None = None


class AdapterFacts(BaseModel):
    """What an adapter belongs to.

    Attributes:
        family: Family of the generator.
        base_model: Hub name or folder of the base weights.
        base_revision: Commit of the hub, if it is known.
        base_options: How the base was read beyond its defaults: image size, longest prompt, prior.
        base_sha256: Hash of the base weights, if they were a folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: AdapterFamily
    base_model: str
    base_revision: str | None = None
    base_options: BaseOptions = BaseOptions()
    base_sha256: str | None = None


class AdapterRecord(AdapterFacts):
    """The content of `adapter.json`."""

    format: Literal["medgen-adapter"] = "medgen-adapter"
    format_version: Literal[1] = 1
    parts: dict[str, PartAdapter] = Field(min_length=1)
    libraries: dict[str, str] = Field(default_factory=dict)


def save_adapter(adapter_dir: Path, parts: Mapping[str, nn.Module], facts: AdapterFacts) -> None:
    """Write the adapters of parts aside, flush them, then rename: `adapter_dir` is whole or absent.

    Args:
        adapter_dir: Folder to make.
        parts: Adapted networks by part name; a network without an adapter is left out.
        facts: What they belong to.

    Raises:
        FileExistsError: If `adapter_dir` is already there.
        AdapterError: If no part has an adapter.
    """
    if adapter_dir.exists():
        raise FileExistsError(f"{adapter_dir} exists; choose another folder or remove it first")
    adapted = {part: module for part, module in parts.items() if is_adapted(module)}
    if not adapted:
        raise AdapterError(f"none of {', '.join(parts) or 'no parts'} has an adapter; add one first")
    record = AdapterRecord(
        **facts.model_dump(),
        parts={part: adapter_of(module) for part, module in adapted.items()},
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )
    aside = adapter_dir.with_name(f".{adapter_dir.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for part, module in adapted.items():
            write_flushed(aside / part / CONFIG_FILE, _json(_peft_dict(module, facts)))
            write_flushed(aside / part / WEIGHTS_FILE, _safetensors(adapter_state(module)))
            flush_folder(aside / part)
        write_flushed(aside / RECORD_FILE, _json(record.model_dump(mode="json")))
        flush_folder(aside)
        aside.rename(adapter_dir)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    flush_folder(adapter_dir.parent)


def read_adapter_record(adapter_dir: Path) -> AdapterRecord:
    """Read what an adapter folder holds, without its weights.

    Raises:
        MissingModelError: If there is no adapter at that place.
        AdapterError: If `adapter.json` cannot be read as one.
    """
    file = adapter_dir / RECORD_FILE
    if not file.is_file():
        raise MissingModelError(
            f"{adapter_dir}: expected an adapter folder with {RECORD_FILE}; train one with `medgen train`"
        )
    try:
        return AdapterRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(key) for key in first["loc"]) or "the whole file"
        raise AdapterError(
            f"{file}: field {field!r}: {first['msg']}; was it written by another version?"
        ) from error


def load_adapter(
    adapter_dir: Path,
    parts: Mapping[str, nn.Module],
    *,
    family: AdapterFamily,
    base_sha256: str | None = None,
) -> AdapterRecord:
    """Put a saved adapter into networks, in place, bit for bit.

    Networks without an adapter get the folder's; those that have one must have the same, and take its weights. If
    anything does not fit, no network is changed.

    Args:
        adapter_dir: Folder that `save_adapter` wrote.
        parts: Networks by part name, at least those of the folder.
        family: Family of the networks.
        base_sha256: Hash of the base weights, compared if the folder knows one too.

    Raises:
        MissingModelError: If there is no adapter at that place.
        AdapterError: If it is of another family, base, rank or shape, or a tensor is missing or left over.
    """
    record = read_adapter_record(adapter_dir)
    _check_belonging(adapter_dir, record, parts, family, base_sha256)
    files = {part: adapter_dir / part / WEIGHTS_FILE for part in record.parts}
    states = {part: _read_weights(file) for part, file in files.items()}
    added: list[nn.Module] = []
    try:
        for part, adapter in record.parts.items():
            _check_peft_config(adapter_dir / part / CONFIG_FILE, adapter)
            if is_adapted(parts[part]):
                _check_same_adapter(adapter_dir, part, adapter, adapter_of(parts[part]))
            else:
                add_adapter(parts[part], adapter, seed=0)
                added.append(parts[part])
            _check_tensors(files[part], states[part], adapter_state(parts[part]))
    except BaseException:
        for module in added:
            remove_adapter(module)
        raise
    with torch.no_grad():
        for part, state in states.items():
            for name, tensor in adapter_state(parts[part]).items():
                tensor.copy_(state[name])
    return record


def _check_belonging(
    adapter_dir: Path,
    record: AdapterRecord,
    parts: Mapping[str, nn.Module],
    family: AdapterFamily,
    base_sha256: str | None,
) -> None:
    if record.family != family:
        raise AdapterError(
            f"{adapter_dir}: adapter of family {record.family!r}, but the model is {family!r}; "
            f"load it into {record.base_model!r}"
        )
    if base_sha256 and record.base_sha256 and base_sha256 != record.base_sha256:
        raise AdapterError(
            f"{adapter_dir}: trained on base weights with sha256 {record.base_sha256[:12]}, but the model has "
            f"{base_sha256[:12]}; load {record.base_model!r}"
        )
    missing = [part for part in record.parts if part not in parts]
    if missing:
        raise AdapterError(
            f"{adapter_dir}: adapts {', '.join(record.parts)}, but got only {', '.join(parts) or 'nothing'}; "
            f"load {', '.join(missing)} too"
        )
    extra = [part for part, module in parts.items() if part not in record.parts and is_adapted(module)]
    if extra:
        raise AdapterError(
            f"{adapter_dir}: holds no weights for the adapter of {', '.join(extra)}; "
            "switch that adapter off, or load a folder that has it"
        )


def _check_peft_config(file: Path, adapter: PartAdapter) -> None:
    """A folder whose two descriptions disagree has been edited: neither can be trusted."""
    try:
        config = json.loads(file.read_bytes())
        theirs = {key: config[key] for key in ("r", "lora_alpha", "use_dora", "use_rslora")}
    except (OSError, ValueError, KeyError) as error:
        raise AdapterError(
            f"{file}: not readable as a PEFT config ({error}); copy the folder again"
        ) from error
    ours = {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "use_dora": adapter.dora,
        "use_rslora": adapter.rslora,
    }
    for key, value in ours.items():
        if theirs[key] != value:
            raise AdapterError(
                f"{file}: {key} is {theirs[key]}, but {RECORD_FILE} says {value}; one of the two was changed"
            )


def _check_same_adapter(adapter_dir: Path, part: str, saved: PartAdapter, present: PartAdapter) -> None:
    for field in ("rank", "alpha", "dora", "rslora", "targets", "last_blocks"):
        theirs, ours = getattr(saved, field), getattr(present, field)
        if theirs != ours:
            raise AdapterError(
                f"{adapter_dir}: the adapter of {part} has {field} {theirs}, the model was given {ours}; "
                f"set adapter.{field} to the folder's value, or train a new adapter"
            )


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        pickled = file.with_name("adapter_model.bin")
        advice = (
            f"{pickled.name} beside it is a pickle, which is never loaded: convert it to safetensors first"
            if pickled.exists()
            else "copy the folder again"
        )
        raise AdapterError(f"{file}: no such file; {advice}")
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise AdapterError(f"{file}: not readable as safetensors ({error}); copy the folder again") from error


def _check_tensors(file: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if missing or unexpected:
        raise AdapterError(
            f"{file}: {len(missing)} tensors of the model's adapter are missing (first: {_first(missing)}), "
            f"{len(unexpected)} are left over (first: {_first(unexpected)}); "
            "it was trained on another model, with other targets, or has been edited"
        )
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise AdapterError(
                f"{file}: {name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}; "
                "it was trained on a model of another size"
            )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) or "none"


def _peft_dict(module: nn.Module, facts: AdapterFacts) -> dict[str, object]:
    config: dict[str, Any] = peft_config(module).to_dict()
    config |= {
        "base_model_name_or_path": facts.base_model,
        "revision": facts.base_revision,
        "inference_mode": True,
    }
    # Sets have no order of their own; the same adapter is to give the same bytes.
    return {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(config.items())}


def _safetensors(state: Mapping[str, Tensor]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
