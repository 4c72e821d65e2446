"""Features of any Hugging Face vision model on this machine: ViT classifiers, CLIP, DINOv2, BiomedCLIP.

Distances in the space of a domain's own classifier see what ImageNet features do not: a ViT trained on
endoscopy gives the Kvasir distance, one on dermoscopy the HAM distance, the BiomedCLIP ViT (published as
ikim-uk-essen/BiomedCLIP_ViT_patch16_224) the BiomedCLIP distance, layer "cls" each. The model is a folder or
is in the local cache: nothing is downloaded, no code of a repository is run, no pickle is opened.

Shapes: B images, S the size the network takes, T tokens, D feature width.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from medgen_metrics.features.hub_files import cached_hub_folder
from medgen_metrics.features.processor_config import read_json_object, read_preprocessing
from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.features.weights import read_weights, weights_sha256

Layer = Literal["cls", "pooled", "logits"]
LAYERS: tuple[Layer, ...] = get_args(Layer)

_NAME = re.compile(r"hf:(?P<model>[^@#]+)(@(?P<revision>[^@#]+))?(#(?P<layer>.+))?")
# Settings that say where a checkpoint came from, not what it computes.
_PROVENANCE = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"})


@dataclass(frozen=True)
class ModelName:
    """The parts of hf:NAME_OR_FOLDER[@REVISION][#LAYER]."""

    model: str
    revision: str | None
    layer: Layer


def parse_model_name(name: str) -> ModelName:
    """Split a name; the layer is "cls" unless it says otherwise.

    Raises:
        ValueError: If the name has another form or there is no such layer.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"expected hf:NAME_OR_FOLDER[@REVISION][#cls|pooled|logits], got {name!r}")
    for layer in LAYERS:
        if (parts["layer"] or "cls") == layer:
            return ModelName(parts["model"], parts["revision"], layer)
    raise ValueError(f"no layer {parts['layer']!r} in {name!r}; expected one of {', '.join(LAYERS)}")


class HfVisionExtractor:
    """`FeatureExtractor` on a vision model of the transformers library.

    "cls" is the first token of the last hidden state, "pooled" the model's own pooled output, "logits" the
    scores of its classifier.
    """

    comparable = True
    cautions: tuple[str, ...] = ()

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        """Load the model.

        Args:
            name: "hf:NAME_OR_FOLDER[@REVISION][#cls|pooled|logits]"; a folder wins over a repository.
            device: Where to compute.

        Raises:
            MissingWeightsError: If the model is not on this machine, has no safetensors weights, or
                transformers is not installed.
            ValueError: If the model has no such layer, needs code of its own, or its preprocessing cannot
                be reproduced.
        """
        parts = parse_model_name(name)
        folder, label, self.revision = _find_folder(name, parts)
        self.layer = parts.layer
        self.id = f"hf:{label}" + (f"@{self.revision}" if self.revision else "") + f"#{parts.layer}"
        self.preprocessing = read_preprocessing(folder)
        config = _read_config(folder)
        state = _read_state(folder)
        self.sha256 = _identity(config, state)
        self._device = torch.device(device)
        self._network = _load_network(folder, config, parts.layer).to(self._device)
        self.dim = int(self._probe().shape[1])

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images.to(self._device)))

    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of preprocessed images, [B, 3, S, S]."""
        return self._select(self._outputs(pixel_values))

    @torch.inference_mode()
    def _outputs(self, pixel_values: Tensor) -> Any:
        with _precise(self._device):
            return self._network(pixel_values=pixel_values.to(self._device))

    def _select(self, outputs: Any) -> Tensor:
        """Pick the layer out of what the model returns, [B, D]."""
        if self.layer == "logits":
            return _named(outputs, "logits").float().cpu()
        if self.layer == "pooled":
            # Convolutional models keep the two spatial axes.
            return _named(outputs, "pooler_output").flatten(1).float().cpu()
        tokens = _named(outputs, "last_hidden_state")  # [B, T, D]
        if tokens.ndim != 3:
            raise ValueError(
                f"{self.id}: layer cls needs tokens [B, T, D], the model gives {tuple(tokens.shape)}; "
                "take #pooled or #logits"
            )
        return tokens[:, 0].float().cpu()

    def _probe(self) -> Tensor:
        size = self.preprocessing.size
        try:
            outputs = self._outputs(torch.zeros(1, 3, size, size))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.id}: the model does not take the {size} x {size} images its preprocessor_config.json "
                f"makes ({error}); use the files of one checkpoint"
            ) from error
        return self._select(outputs)


def _find_folder(name: str, parts: ModelName) -> tuple[Path, str, str | None]:
    """Return the folder of the model, what to call it, and its commit if it is a snapshot of the cache."""
    folder = Path(parts.model).expanduser()
    if folder.is_dir():
        if parts.revision is not None:
            raise ValueError(f"{name}: a folder has no revisions; leave @{parts.revision} out")
        # Known by its last part: the same model gives one space wherever it lies.
        return folder, folder.resolve().name, None
    cached = cached_hub_folder(parts.model, parts.revision) if parts.model.count("/") == 1 else None
    if cached is None:
        raise MissingWeightsError(
            f"{name}: no such folder, and not in the local Hugging Face cache; give a folder with config.json, "
            "model.safetensors and preprocessor_config.json. Nothing is downloaded"
        )
    # The cache names a snapshot by its commit, which a branch or tag is not.
    return cached, parts.model, cached.name


def _read_config(folder: Path) -> dict[str, Any]:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise MissingWeightsError(f"{folder}: no config.json; copy it from the repository of the model")
    config = read_json_object(config_file)
    if "auto_map" in config or "model_type" not in config:
        raise ValueError(
            f"{config_file}: this model needs code from its repository, which is never run; take a checkpoint "
            "of a model class that transformers has (a config.json with model_type and without auto_map)"
        )
    return config


def _read_state(folder: Path) -> dict[str, Tensor]:
    index_file = folder / "model.safetensors.index.json"
    names = sorted(set(read_json_object(index_file)["weight_map"].values())) if index_file.is_file() else []
    files = [folder / name for name in names or ["model.safetensors"]]
    if any(file.parent != folder for file in files):
        raise ValueError(f"{index_file}: shards must lie beside it, got {', '.join(names)}")
    if not files[0].is_file() and any(folder.glob("*.bin")):
        raise MissingWeightsError(
            f"{folder}: has pickled weights (.bin) only, which are not opened; take a revision with "
            "model.safetensors, or convert it with safetensors where you trust the file"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_weights(file)
    return state


def _identity(config: dict[str, Any], state: dict[str, Tensor]) -> str:
    """Hash what the features depend on: the tensors, and the settings that say how they are used."""
    settings = {key: value for key, value in config.items() if key not in _PROVENANCE}
    text = json.dumps([settings, weights_sha256(state)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _load_network(folder: Path, config: dict[str, Any], layer: Layer) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise MissingWeightsError(
            f"{folder}: Hugging Face models need transformers; install medgen-metrics[hf]"
        ) from error
    if layer == "logits":
        model_class: Any = transformers.AutoModelForImageClassification
    elif config["model_type"] in {"clip", "clip_vision_model"}:
        model_class = transformers.CLIPVisionModel
    else:
        model_class = transformers.AutoModel
    try:
        # Tensors the checkpoint lacks are drawn at random, which must not move the caller's generator.
        with torch.random.fork_rng(devices=[]), _without_load_report():
            network, report = model_class.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: transformers cannot load layer {layer} ({error})") from error
    # The pooler of a classifier's checkpoint does not exist, and only "pooled" would use it.
    missing = sorted(key for key in report["missing_keys"] if layer != "cls" or not key.startswith("pooler."))
    if missing or report["mismatched_keys"]:
        raise ValueError(
            f"{folder}: layer {layer} is not in this checkpoint, which lacks {', '.join(missing[:3])}; "
            f"take another of {', '.join(LAYERS)}"
        )
    network.eval().requires_grad_(False)
    return network


@contextmanager
def _without_load_report() -> Iterator[None]:
    # It warns of tensors that the chosen layer does not use; those it does use are checked here.
    reporter = logging.getLogger("transformers.modeling_utils")
    level = reporter.level
    reporter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reporter.setLevel(level)


def _named(outputs: Any, name: str) -> Tensor:
    value = getattr(outputs, name, None)
    if not isinstance(value, Tensor):
        raise ValueError(f"the model gives no {name}; take another layer of {', '.join(LAYERS)}")
    return value


def _precise(device: torch.device) -> AbstractContextManager[None]:
    # TF32 would move features by 1e-3 between GPU generations.
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return nullcontext()
