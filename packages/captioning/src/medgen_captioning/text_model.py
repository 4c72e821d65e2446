"""A language model in this process that answers requests in text.

As with images, the text of a request does not depend on its batch: each row draws its words from its own seed.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from medgen_captioning.asking import Failed
from medgen_captioning.caption_cache import Answer, CaptionCache
from medgen_captioning.language_model import TextModelConfig
from medgen_captioning.local_models import SeededGeneration, load_network, load_tokenizer
from medgen_captioning.requests import Draw, Writer

# Batches put in before the first is answered.
_BATCHES_AHEAD = 1


class TextModel:
    """A loaded causal language model with its tokenizer."""

    def __init__(self, config: TextModelConfig) -> None:
        """Load a model; only safetensors are read, no code of a repository is run.

        Raises:
            MissingModelError: If it is not to be had.
            UnusableModelError: If it is no language model, or needs code of its repository.
        """
        self.config = config
        which: dict[str, Any] = {
            "name_or_dir": config.model,
            "revision": config.revision,
            "kind": "language model",
        }
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(AutoTokenizer, **which)
        self._model = load_network(
            AutoModelForCausalLM, **which, device=config.device, dtype=getattr(torch, config.dtype)
        )
        self._generate = SeededGeneration(self._model, self._tokenizer, config.decoding)

    @torch.inference_mode()
    def answer(self, prompts: Sequence[str], seeds: Sequence[int], opening: str) -> list[str]:
        """Answer B requests.

        Args:
            prompts: The requests.
            seeds: One per request.
            opening: What every answer begins with.

        Returns:
            B answers, the opening included.
        """
        texts = [self.wrap(prompt) + opening for prompt in prompts]
        bos = self._tokenizer.bos_token
        inputs = self._tokenizer(
            texts,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
            add_special_tokens=not (bos and texts[0].startswith(str(bos))),
        ).to(self._model.device)
        tokens = self._generate(inputs, seeds)
        num_prompt = inputs["input_ids"].shape[1]
        answers = self._tokenizer.batch_decode(tokens[:, num_prompt:], skip_special_tokens=True)
        return [opening + answer for answer in answers]

    def wrap(self, prompt: str) -> str:
        """Return a request as the model was tuned to read it; one without a template reads it as it is."""
        if self._tokenizer.chat_template is None:
            return f"{prompt}\n"
        message = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


class TextEngine:
    """Answers draws in batches."""

    def __init__(self, model: TextModel, writer: Writer, cache: CaptionCache, opening: str) -> None:
        self._model = model
        self._writer = writer
        self._cache = cache
        self._opening = opening
        self._queue: deque[Draw] = deque()

    def room(self) -> int:
        """Return how many more draws it takes now."""
        return (1 + _BATCHES_AHEAD) * self._model.config.batch_size - len(self._queue)

    def put(self, item: Draw) -> None:
        """Take a draw."""
        self._queue.append(item)

    def take(self) -> list[tuple[Draw, str | Failed]]:
        """Answer the oldest draws, one batch of them."""
        size = min(self._model.config.batch_size, len(self._queue))
        items = [self._queue.popleft() for _ in range(size)]
        if not items:
            return []
        prompts = [item.question.prompt for item in items]
        texts = self._model.answer(prompts, [item.seed for item in items], self._opening)
        identity = self._writer.identity
        self._cache.store(
            *(
                Answer(item.key, text, identity, "", item.question.prompt, item.seed)
                for item, text in zip(items, texts, strict=True)
            )
        )
        return list(zip(items, texts, strict=True))

    def close(self) -> None:
        """Nothing is left to close."""


def open_text_engine(
    config: TextModelConfig, writer: Writer, cache: CaptionCache, opening: str
) -> TextEngine:
    """Load a model and return what answers with it."""
    return TextEngine(TextModel(config), writer, cache, opening)
