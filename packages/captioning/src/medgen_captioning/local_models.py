"""Models of transformers in this process: loaded without running code of theirs, answering row by row.

Shapes: B rows, L tokens of request and answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from medgen_captioning.config import Decoding
from medgen_captioning.model_files import MissingModelError, UnusableModelError
from medgen_captioning.seeded_sampling import SeededSampling


def load_tokenizer(auto_class: Any, name_or_dir: str, revision: str | None, *, kind: str) -> Any:
    """Load a tokenizer or processor; arguments and errors as in `load_network`."""
    return _load(auto_class, name_or_dir, revision, kind)


def load_network(
    auto_class: Any, name_or_dir: str, revision: str | None, *, kind: str, device: str | None, **options: Any
) -> Any:
    """Load a network, frozen; only safetensors are read.

    Args:
        auto_class: Class of transformers that finds the architecture.
        name_or_dir: Hub name or folder.
        revision: Branch, tag or commit of the hub repository; None: its main branch.
        kind: What it should be, for the error: `language model`.
        device: Where it runs; None or `auto`: the first GPU, or the CPU where there is none.
        options: Further ones of `from_pretrained`.

    Raises:
        MissingModelError: If it is not to be had.
        UnusableModelError: If it is of another kind, or needs code of its repository.
    """
    if device in (None, "auto"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _load(auto_class, name_or_dir, revision, kind, use_safetensors=True, **options)
    return network.requires_grad_(False).eval().to(device)


class SeededGeneration:
    """How a decoder answers: words are drawn by the config and each row's seed, not as the model was saved.

    Only where texts end is the model's own.
    """

    def __init__(self, network: Any, tokenizer: Any, decoding: Decoding) -> None:
        """Prepare network and tokenizer: padding goes to the left, since answers follow the request directly.

        Args:
            network: Decoder, in place.
            tokenizer: Its tokenizer, in place.
            decoding: How words are drawn.
        """
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        own = network.generation_config
        self._ends: dict[str, Any] = {
            "bos_token_id": own.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        network.generation_config = GenerationConfig(**self._ends)
        self._network = network
        self._decoding = decoding

    def __call__(self, inputs: Mapping[str, Any], seeds: Sequence[int]) -> Tensor:
        """Return requests and answers as tokens [B, L].

        Args:
            inputs: Of B tokenized requests.
            seeds: One per request.
        """
        processors = LogitsProcessorList()
        if self._decoding.do_sample:
            processors.append(SeededSampling(seeds, self._decoding))
        settings = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=self._decoding.max_new_tokens, **self._ends
        )
        tokens: Tensor = self._network.generate(
            **inputs, generation_config=settings, logits_processor=processors
        )
        return tokens


def _load(auto_class: Any, name_or_dir: str, revision: str | None, kind: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(name_or_dir, revision=revision, trust_remote_code=False, **options)
    except OSError as error:
        raise MissingModelError(
            f"{name_or_dir}: not to be had: {_first_line(error)}; allow the download once, or give a local folder"
        ) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UnusableModelError(
                f"{name_or_dir}: needs code of its repository, which is never run; take a conversion that "
                "transformers knows itself, such as one whose name ends in -hf"
            ) from error
        raise UnusableModelError(
            f"{name_or_dir}: is no {kind} that transformers knows ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
