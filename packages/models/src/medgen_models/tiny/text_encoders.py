"""Text encoders with random weights and tokenizers that know every byte or letter."""

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from medgen_models.text_encoder import PromptEncoder


def tiny_clip_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer over the byte alphabet: no merges, every text can be encoded."""
    # The printable stand-ins of the 256 bytes, as byte-level BPE has them.
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]
    symbols = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[])


def tiny_prompt_encoder(seed: int = 0, *, max_tokens: int = 16) -> PromptEncoder:
    """Return a CLIP text encoder of width 32 with random weights."""
    tokenizer = tiny_clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_model = CLIPTextModel(config)
    return PromptEncoder(text_model, tokenizer, max_tokens)


def write_tiny_text_encoder(folder: Path, seed: int = 0) -> Path:
    """Write the miniature CLIP text encoder and its tokenizer as one folder, and return it."""
    encoder = tiny_prompt_encoder(seed)
    encoder.text_model.save_pretrained(folder, safe_serialization=True)
    encoder.tokenizer.save_pretrained(folder)
    return folder
