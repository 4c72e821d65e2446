"""A language model with random weights in the folder format of transformers."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medgen_captioning.tiny.tokenizers import byte_tokenizer


def write_tiny_llama(folder: Path, seed: int = 0, *, width: int = 32) -> Path:
    """Write a Llama of two blocks with a byte tokenizer and no chat template, and return its folder."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
        model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder
