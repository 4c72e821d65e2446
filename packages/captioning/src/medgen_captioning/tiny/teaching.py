"""Teach a miniature its answers by heart, so that a real model in a real folder gives captions that pass."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from medgen_captioning.vision_language import Images

_GOOD_ENOUGH = 0.02


def teach(
    folder: Path,
    images: Sequence[Images],
    requests: Sequence[str],
    answers: Sequence[str],
    *,
    most_steps: int = 600,
) -> float:
    """Train a vision-language model until it answers B requests by heart, and write it back to its folder.

    Args:
        folder: Of the model, with its processor and a chat template.
        images: One per request, [H, W, 3] uint8.
        requests: What is asked.
        answers: What it shall say.
        most_steps: Steps of Adam at most.

    Returns:
        The last loss, nats per token.

    Raises:
        RuntimeError: If it did not learn them.
    """
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    network = AutoModelForImageTextToText.from_pretrained(folder).train()
    starts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for request in requests
    ]
    end = processor.tokenizer.eos_token
    texts = [f"{start}{answer}{end}" for start, answer in zip(starts, answers, strict=True)]
    pictures = [[Image.fromarray(image)] for image in images]
    whole = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    asked = processor(images=pictures, text=starts, padding=True, return_tensors="pt")
    lengths = whole["attention_mask"].sum(dim=1) - asked["attention_mask"].sum(dim=1)
    places = torch.arange(whole["input_ids"].shape[1])
    labels = whole["input_ids"].where(places >= (len(places) - lengths)[:, None], -100)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(most_steps):
        loss = network(**whole, labels=labels).loss
        if loss < _GOOD_ENOUGH:
            network.save_pretrained(folder)
            return float(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise RuntimeError(
        f"{folder}: loss must fall below {_GOOD_ENOUGH} in {most_steps} steps, got {loss.item():.3f}"
    )
