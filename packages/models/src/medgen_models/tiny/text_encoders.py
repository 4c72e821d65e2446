"""Text encoders with random weights and tokenizers that know every byte or letter."""

from pathlib import Path

from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from medgen_models.text_encoder import PromptEncoder
from medgen_models.tiny.random_weights import random_weights

_LETTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)]  # printable ASCII but the space


def tiny_clip_tokenizer(*, max_tokens: int | None = None, padding: str = "<|endoftext|>") -> CLIPTokenizer:
    """Return a CLIP tokenizer over the byte alphabet: no merges, every text can be encoded."""
    # The printable stand-ins of the 256 bytes, as byte-level BPE has them.
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]
    symbols = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[], pad_token=padding
    )
    if max_tokens is not None:
        tokenizer.model_max_length = max_tokens
    return tokenizer


def tiny_clip_encoder(
    seed: int,
    *,
    max_tokens: int = 77,
    width: int = 32,
    projection_dim: int | None = None,
    padding: str = "<|endoftext|>",
) -> tuple[CLIPTextModel | CLIPTextModelWithProjection, CLIPTokenizer]:
    """Return a CLIP text model of two layers with random weights, and its tokenizer.

    Args:
        seed: Seed of the weights.
        max_tokens: Length that the tokenizer cuts at.
        width: Width of the states.
        projection_dim: Width of the projected pooled state; None: a model without projection.
        padding: Ends of prompts are filled with it; `!` in the second tokenizer of SDXL.
    """
    tokenizer = tiny_clip_tokenizer(max_tokens=max_tokens, padding=padding)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=projection_dim or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model_class = CLIPTextModel if projection_dim is None else CLIPTextModelWithProjection
    return random_weights(lambda: model_class(config), seed), tokenizer


def tiny_t5_encoder(seed: int, *, max_tokens: int, width: int = 32) -> tuple[T5EncoderModel, T5Tokenizer]:
    """Return a gated T5 encoder (v1.1) of two blocks with random weights, and a tokenizer of letters.

    Letters outside ASCII become the unknown token.

    Args:
        seed: Seed of the weights.
        max_tokens: Length that the tokenizer cuts at.
        width: Width of the states.
    """
    pieces = ["<pad>", "</s>", "<unk>", "▁", *_LETTERS]
    tokenizer = T5Tokenizer(vocab=[(piece, -2.0) for piece in pieces], extra_ids=0)
    tokenizer.model_max_length = max_tokens
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return random_weights(lambda: T5EncoderModel(config), seed), tokenizer


def tiny_bert_encoder(seed: int, *, max_tokens: int, width: int = 32) -> tuple[BertModel, BertTokenizer]:
    """Return a BERT of two layers with random weights, and a tokenizer of letters.

    Letters outside ASCII become the unknown token, with the word they stand in.

    Args:
        seed: Seed of the weights.
        max_tokens: Length that the tokenizer cuts at, and number of positions.
        width: Width of the states.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=False)
    tokenizer.model_max_length = max_tokens
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return random_weights(lambda: BertModel(config), seed), tokenizer


def tiny_prompt_encoder(seed: int = 0, *, max_tokens: int = 16) -> PromptEncoder:
    """Return a CLIP text encoder of width 32 with random weights."""
    text_model, tokenizer = tiny_clip_encoder(seed, max_tokens=max_tokens)
    return PromptEncoder(text_model, tokenizer, max_tokens)


def write_tiny_text_encoder(folder: Path, seed: int = 0) -> Path:
    """Write the miniature CLIP text encoder and its tokenizer as one folder, and return it."""
    encoder = tiny_prompt_encoder(seed)
    encoder.text_model.save_pretrained(folder, safe_serialization=True)
    encoder.tokenizer.save_pretrained(folder)
    return folder
