"""A T5 with random weights in the folder format of transformers."""

from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration

from medgen_captioning.tiny.tokenizers import byte_tokenizer


def write_tiny_t5(folder: Path, seed: int = 0) -> Path:
    """Write a T5 of two blocks with a language modelling head and a byte tokenizer, and return its folder."""
    tokenizer = byte_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
        model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder
