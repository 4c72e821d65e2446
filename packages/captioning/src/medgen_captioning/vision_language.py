"""A vision-language model in this process: LLaVA-NeXT, Ovis2, or any image-text-to-text model of transformers.

The text of an image does not depend on its batch: each row draws its words from its own seed, and prompts are
padded on the left, where no attention goes. What remains is the rounding of matrix products, which differs in the
last bits with the shape of the batch: in float32 it has not changed a text in any test, in half precision two
nearly equal logits may change places.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from medgen_data.images import ImageError, decode_image
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from medgen_captioning.asking import Failed
from medgen_captioning.caption_cache import Answer, CaptionCache
from medgen_captioning.chat_templates import TEMPLATES
from medgen_captioning.config import VisionLanguageConfig
from medgen_captioning.local_models import SeededGeneration, load_network, load_tokenizer
from medgen_captioning.model_files import UnusableModelError
from medgen_captioning.requests import Draw, Writer

Images = npt.NDArray[np.uint8]

# Batches of images decoded ahead of the model.
_BATCHES_AHEAD = 2


class VisionLanguageModel:
    """A loaded model with its processor."""

    def __init__(self, config: VisionLanguageConfig) -> None:
        """Load a model; only safetensors are read, no code of a repository is run.

        Raises:
            MissingModelError: If it is not to be had.
            UnusableModelError: If it is no vision-language model, needs code of its repository, or has no chat
                template.
        """
        self.config = config
        which: dict[str, Any] = {
            "name_or_dir": config.model,
            "revision": config.revision,
            "kind": "vision-language model",
        }
        self._processor = load_tokenizer(AutoProcessor, **which)
        self._model = load_network(
            AutoModelForImageTextToText, **which, device=config.device, dtype=getattr(torch, config.dtype)
        )
        self._tokenizer: Any = self._processor.tokenizer
        self._template = self._choose_template()
        self._generate = SeededGeneration(self._model, self._tokenizer, config.decoding)

    @torch.inference_mode()
    def describe(
        self, images: Sequence[Images], prompts: Sequence[str], openings: Sequence[str], seeds: Sequence[int]
    ) -> list[str]:
        """Answer B requests.

        Args:
            images: One image per request, [H, W, 3] uint8, of any size.
            prompts: The requests.
            openings: What the answers are begun with, if the config says so.
            seeds: One per request.

        Returns:
            B answers, the opening included.
        """
        texts = [self._wrap(prompt, opening) for prompt, opening in zip(prompts, openings, strict=True)]
        begins_itself = bool(self._tokenizer.bos_token) and texts[0].startswith(self._tokenizer.bos_token)
        inputs = self._processor(
            images=[[Image.fromarray(image)] for image in images],
            text=texts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not begins_itself,
        ).to(self._model.device, dtype=self._model.dtype)
        tokens = self._generate(inputs, seeds)
        num_prompt = inputs["input_ids"].shape[1]
        answers = [self._decode(row, num_prompt) for row in tokens]
        if not self.config.prefill_opening:
            return answers
        return [opening + answer for opening, answer in zip(openings, answers, strict=True)]

    def _wrap(self, prompt: str, opening: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return f"{text}{opening}" if self.config.prefill_opening else str(text)

    def _decode(self, row: torch.Tensor, num_prompt: int) -> str:
        """Decode what follows the prompt, together with it: some decoders drop a leading space."""
        head = self._tokenizer.decode(row[:num_prompt], skip_special_tokens=True)
        whole = self._tokenizer.decode(row, skip_special_tokens=True)
        if whole.startswith(head):
            return str(whole[len(head) :])
        return str(self._tokenizer.decode(row[num_prompt:], skip_special_tokens=True))

    def _choose_template(self) -> str | None:
        if self.config.chat_template != "auto":
            return TEMPLATES[self.config.chat_template]
        if getattr(self._processor, "chat_template", None) or getattr(self._tokenizer, "chat_template", None):
            return None
        raise UnusableModelError(
            f"{self.config.model}: has no chat template; set chat_template to one of {', '.join(sorted(TEMPLATES))}"
        )


class BatchEngine:
    """Answers draws in batches, images decoded ahead by threads."""

    def __init__(self, model: VisionLanguageModel, writer: Writer, cache: CaptionCache) -> None:
        self._model = model
        self._writer = writer
        self._cache = cache
        self._batch_size = model.config.batch_size
        self._readers = ThreadPoolExecutor(2)
        self._queue: deque[tuple[Draw, Future[Images]]] = deque()

    def room(self) -> int:
        """Return how many more draws it takes now."""
        return (1 + _BATCHES_AHEAD) * self._batch_size - len(self._queue)

    def put(self, item: Draw) -> None:
        """Take a draw and begin to decode its image."""
        self._queue.append((item, self._readers.submit(decode_image, item.question.image_file)))

    def take(self) -> list[tuple[Draw, str | Failed]]:
        """Answer the oldest draws, one batch of them."""
        results: list[tuple[Draw, str | Failed]] = []
        items: list[Draw] = []
        images: list[Images] = []
        while self._queue and len(items) < self._batch_size:
            item, reading = self._queue.popleft()
            try:
                images.append(reading.result())
                items.append(item)
            except ImageError as error:
                results.append((item, Failed(error.code, str(error), of_image=True)))
        if not items:
            return results
        texts = self._model.describe(
            images,
            [item.question.prompt for item in items],
            [item.question.opening for item in items],
            [item.seed for item in items],
        )
        answers = [self._answer(item, text) for item, text in zip(items, texts, strict=True)]
        self._cache.store(*answers)
        return results + list(zip(items, texts, strict=True))

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(cancel_futures=True)

    def _answer(self, item: Draw, text: str) -> Answer:
        question = item.question
        return Answer(
            item.key, text, self._writer.identity, question.image_sha256, question.prompt, item.seed
        )


def open_engine(config: VisionLanguageConfig, writer: Writer, cache: CaptionCache) -> BatchEngine:
    """Load a model and return what answers with it."""
    return BatchEngine(VisionLanguageModel(config), writer, cache)
