"""Vision-language models with random weights in the folder format of transformers, with their real processors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2Processor,
    Qwen2Config,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.ovis2.configuration_ovis2 import Ovis2VisionConfig
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from medgen_captioning.chat_templates import TEMPLATES
from medgen_captioning.tiny.tokenizers import byte_tokenizer

_SIDE = 28
_PATCH = 14
_OVIS_MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def write_tiny_llava_next(folder: Path, seed: int = 0, *, width: int = 32, num_layers: int = 2) -> Path:
    """Write a LLaVA-NeXT over CLIP and Llama with a Vicuna template, and return its folder."""
    tokenizer = byte_tokenizer(["<image>"])
    pinpoints = [[_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE], [2 * _SIDE, 2 * _SIDE]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            **_text_size(width, num_layers), image_size=_SIDE, patch_size=_PATCH, projection_dim=width
        ),
        text_config=LlamaConfig(**_text_size(width, num_layers), **_vocabulary(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": _SIDE},
            crop_size={"height": _SIDE, "width": _SIDE},
            image_grid_pinpoints=pinpoints,
        ),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["vicuna"],
    )
    return _write(folder, lambda: LlavaNextForConditionalGeneration(config), processor, seed)


def write_tiny_ovis2(folder: Path, seed: int = 0, *, width: int = 32, num_layers: int = 2) -> Path:
    """Write an Ovis2 over Qwen2 with a ChatML template, and return its folder."""
    tokenizer = byte_tokenizer(["<image>", "<IMG_ATOM>", *_OVIS_MARKS])
    config = Ovis2Config(
        vision_config=Ovis2VisionConfig(
            **_text_size(width, num_layers), image_size=_SIDE, patch_size=_PATCH, vocab_size=64
        ),
        text_config=Qwen2Config(
            **_text_size(width, num_layers), **_vocabulary(tokenizer), tie_word_embeddings=False
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(_OVIS_MARKS)),
        vocab_size=len(tokenizer),
        hidden_size=width,
        tie_word_embeddings=False,
    )
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessorPil(
            size={"height": _SIDE, "width": _SIDE}, crop_to_patches=True, max_patches=4
        ),
        tokenizer=tokenizer,
        image_seq_length=(_SIDE // _PATCH) ** 2,
        chat_template=TEMPLATES["chatml"],
    )
    return _write(folder, lambda: Ovis2ForConditionalGeneration(config), processor, seed)


def _text_size(width: int, num_layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
    }


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _write(folder: Path, build: Callable[[], Any], processor: Any, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
        model = build().eval()
        head = model.get_output_embeddings().weight
        # Fresh heads give all tokens nearly the same chance; wider ones have an opinion.
        head.data.normal_(std=1.0)
    model.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    return folder
