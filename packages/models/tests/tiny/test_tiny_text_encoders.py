from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_models.text_encoder import PromptEncoder
from medgen_models.tiny.text_encoders import tiny_bert_encoder, tiny_clip_encoder, tiny_t5_encoder
from transformers import AutoTokenizer

PAIRS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "clip": tiny_clip_encoder,
    "clip-projected": lambda seed, **sizes: tiny_clip_encoder(seed, projection_dim=24, **sizes),
    "t5": tiny_t5_encoder,
    "bert": tiny_bert_encoder,
}
PROMPTS = ["An endoscopic image of Polyps, 5-10mm.", "An endoscopic image of Polyps, 5-11mm.", ""]


@pytest.mark.parametrize("kind", PAIRS)
def test_folder_gives_back_the_states_and_the_limit(kind: str, tmp_path: Path) -> None:
    text_model, tokenizer = PAIRS[kind](5, max_tokens=60, width=16)
    text_model.save_pretrained(tmp_path / "text_encoder", safe_serialization=True)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert type(loaded) is type(tokenizer)
    assert loaded.model_max_length == 60
    read = type(text_model).from_pretrained(tmp_path / "text_encoder")
    before = PromptEncoder(text_model, tokenizer, 60).encode(PROMPTS)
    after = PromptEncoder(read, loaded, 60).encode(PROMPTS)
    assert before.prompt_embeds.shape == (3, 60, 16)
    for name, tensor in before.tensors().items():
        assert torch.equal(after.tensors()[name], tensor), name


@pytest.mark.parametrize("kind", PAIRS)
def test_every_letter_matters_and_every_weight_is_random(kind: str) -> None:
    state = torch.get_rng_state()
    text_model, tokenizer = PAIRS[kind](5, max_tokens=60)
    assert torch.equal(torch.get_rng_state(), state)
    polyp, larger, empty = PromptEncoder(text_model, tokenizer, 60).encode(PROMPTS).prompt_embeds
    assert not torch.allclose(polyp, larger, atol=1e-3)
    assert not torch.allclose(polyp, empty, atol=1e-3)
    assert all(parameter.any() for parameter in text_model.parameters())
    again, _ = PAIRS[kind](5, max_tokens=60)
    for name, tensor in text_model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_states_of_a_double_model_stay_double() -> None:
    text_model, tokenizer = tiny_clip_encoder(0, projection_dim=24)
    encoder = PromptEncoder(text_model.double(), tokenizer, 20)
    encoded = encoder.encode(PROMPTS)
    assert encoded.prompt_embeds.dtype == torch.float64
    assert encoded.pooled_prompt_embeds is not None
    assert encoded.pooled_prompt_embeds.dtype == torch.float64
    text_model.bfloat16()
    assert encoder.encode(PROMPTS).prompt_embeds.dtype == torch.float32
