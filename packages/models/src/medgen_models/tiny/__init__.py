"""Random-weight miniatures of real classes, in the real folder format, for tests and dry runs."""

from medgen_models.tiny.msdm import TINY_MSDM, tiny_msdm
from medgen_models.tiny.text_encoders import (
    tiny_clip_tokenizer,
    tiny_prompt_encoder,
    write_tiny_text_encoder,
)

__all__ = ["TINY_MSDM", "tiny_clip_tokenizer", "tiny_msdm", "tiny_prompt_encoder", "write_tiny_text_encoder"]
