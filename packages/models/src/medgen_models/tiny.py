"""Random-weight miniatures of real classes, in the real folder format, for tests and dry runs."""

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from medgen_models.diffusion import Diffusion
from medgen_models.families.msdm import MsdmModel, new_msdm
from medgen_models.msdm.presets import MsdmPreset
from medgen_models.text_encoder import PromptEncoder

TINY_MSDM = MsdmPreset(
    image_size=16,
    autoencoder_channels=(8, 16, 16),
    latent_channels=4,
    autoencoder_groups=4,
    unet_channels=(16, 32),
    blocks_per_level=1,
    embed_dim=32,
    num_heads=2,
    unet_groups=4,
    dropout=0.0,
    time_dim=16,
    max_tokens=16,
    diffusion=Diffusion(prediction_type="v"),
)


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


def tiny_msdm(seed: int = 0, *, preset: MsdmPreset = TINY_MSDM) -> MsdmModel:
    """Return an MSDM of 16 px with random weights, its zero-initialised ends made random too.

    As it is built, an MSDM predicts exactly zero; a test wants an output that depends on every weight.
    """
    model = new_msdm(preset, tiny_prompt_encoder(seed, max_tokens=preset.max_tokens), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (model.vae, model.denoiser):
            for parameter in module.parameters():
                if not parameter.any():
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
