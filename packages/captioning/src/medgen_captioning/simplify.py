"""Shorten captions over the token budget with T5 (Guo et al. 2025, section 2.1)."""

import re
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from medgen_captioning.caption_cache import Answer, CaptionCache
from medgen_captioning.config import SimplifyConfig
from medgen_captioning.local_models import load_network, load_tokenizer
from medgen_captioning.model_files import model_identity
from medgen_captioning.requests import Writer, answer_key


class Simplifier:
    """A T5 that is loaded when the first caption is too long and its short form is not in the cache."""

    def __init__(self, config: SimplifyConfig, cache: CaptionCache, device: str | None = None) -> None:
        """Find the model.

        Args:
            config: Which model, and how it searches.
            cache: Where short forms are kept.
            device: Where it runs; None or `auto`: the first GPU, or the CPU where there is none.

        Raises:
            MissingModelError: If it is not to be had.
        """
        self.config = config
        self._cache = cache
        self._device = device
        self._loaded: tuple[Any, Any] | None = None
        decoding = config.model_dump(mode="json", exclude={"model", "revision", "prefix"})
        identity = model_identity(config.model, config.revision, cache)
        self.writer = Writer(config.model, identity, decoding, draws=False)

    def simplify(self, text: str) -> str:
        """Return a caption in fewer words; the same caption gives the same words.

        A short form that was stopped at its longest loses the sentence it breaks off in.
        """
        known = self.known(text)
        if known is None:
            prompt = self.config.prefix + text
            known = self._generate(prompt)
            self._cache.store(Answer(self._key(text), known, self.writer.identity, "", prompt, 0))
        return known

    def known(self, text: str) -> str | None:
        """Return the short form of a caption if it is in the cache."""
        return self._cache.text(self._key(text))

    def _key(self, text: str) -> str:
        return answer_key(self.writer, "", self.config.prefix + text, 0)

    @torch.inference_mode()
    def _generate(self, prompt: str) -> str:
        if self._loaded is None:
            self._loaded = _load(self.config, self._device)
        model, tokenizer = self._loaded
        inputs = tokenizer(
            prompt, max_length=self.config.max_input_tokens, truncation=True, return_tensors="pt"
        ).to(model.device)
        settings = GenerationConfig(
            do_sample=False,
            num_beams=self.config.num_beams,
            min_length=self.config.min_tokens,
            max_length=self.config.max_tokens,
            decoder_start_token_id=model.config.decoder_start_token_id,
            eos_token_id=model.config.eos_token_id,
            pad_token_id=model.config.pad_token_id,
        )
        tokens = model.generate(**inputs, generation_config=settings)
        text = str(tokenizer.decode(tokens[0], skip_special_tokens=True))
        return text if tokens[0, -1] == model.config.eos_token_id else whole_sentences(text)


def whole_sentences(text: str) -> str:
    """Return a text without the sentence it breaks off in; as it is if it has no other.

    >>> whole_sentences("A pink polyp of 1.5 cm. Its surface is")
    'A pink polyp of 1.5 cm.'
    """
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


def _load(config: SimplifyConfig, device: str | None) -> tuple[Any, Any]:
    which: dict[str, Any] = {"name_or_dir": config.model, "revision": config.revision, "kind": "T5"}
    model = load_network(AutoModelForSeq2SeqLM, **which, device=device)
    model.generation_config = GenerationConfig()
    return model, load_tokenizer(AutoTokenizer, **which)
