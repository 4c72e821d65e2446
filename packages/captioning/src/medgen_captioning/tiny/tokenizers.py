"""A tokenizer that needs no file: every byte is a token, and some words are."""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# Words of captions, so that prompts and answers are tens of tokens long instead of hundreds.
WORDS = (
    "An", "A", "endoscopic", "dermoscopic", "image", "of", "polyps", "the", "with", "and", "color", "shape",
    "surface", "mucosa", "surrounding", "texture", "bleeding", "condition", "relevant", "details", "Please",
    "describe", "using", "following", "visual", "features", "specific", "Start", "ensure", "description", "does",
    "not", "exceed", "words", "pink", "white", "red", "smooth", "round", "small", "large", "area", "shows", "is",
)  # fmt: skip
SPECIALS = ("<pad>", "<s>", "</s>")


def byte_tokenizer(specials: Sequence[str] = (), *, max_tokens: int = 4096) -> Any:
    """Return a byte-level tokenizer without merges that knows `WORDS`, with and without a space before them.

    Args:
        specials: Special tokens besides those for padding, beginning and end.
        max_tokens: Length that it warns at.
    """
    names = [*SPECIALS, *specials]
    symbols = [*names, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(f"{space}{word}", normalized=False) for word in WORDS for space in (" ", "")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106 - no password
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        additional_special_tokens=list(specials),
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
    )
