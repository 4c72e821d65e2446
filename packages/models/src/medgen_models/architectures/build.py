"""The families by name, built on the meta device or with random weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from medgen_models.architectures.flux import FLUX
from medgen_models.architectures.hunyuan_dit import HUNYUAN_DIT
from medgen_models.architectures.kandinsky3 import KANDINSKY3
from medgen_models.architectures.kandinsky22 import KANDINSKY22_DECODER, KANDINSKY22_PRIOR
from medgen_models.architectures.pixart import PIXART
from medgen_models.architectures.sdxl import SDXL
from medgen_models.architectures.specification import Architecture, CallInputs, InputSize
from medgen_models.architectures.stable_diffusion import SD14, SD15

if TYPE_CHECKING:
    import torch
    from torch import nn

FamilyName = Literal[
    "pixart",
    "sd14",
    "sd15",
    "sdxl",
    "hunyuan-dit",
    "kandinsky22-prior",
    "kandinsky22-decoder",
    "kandinsky3",
    "flux",
]

ARCHITECTURES: dict[FamilyName, Architecture] = {
    "pixart": PIXART,
    "sd14": SD14,
    "sd15": SD15,
    "sdxl": SDXL,
    "hunyuan-dit": HUNYUAN_DIT,
    "kandinsky22-prior": KANDINSKY22_PRIOR,
    "kandinsky22-decoder": KANDINSKY22_DECODER,
    "kandinsky3": KANDINSKY3,
    "flux": FLUX,
}


def architecture(family: str) -> Architecture:
    """Return the architecture of a family.

    Raises:
        ValueError: If the family is unknown.
    """
    for name, known in ARCHITECTURES.items():
        if name == family:
            return known
    raise ValueError(
        f"family {family!r} has no published full size; expected one of {', '.join(ARCHITECTURES)}"
    )


def build_parts(
    family: str,
    device: str | torch.device = "meta",
    dtype: torch.dtype | None = None,
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
) -> dict[str, nn.Module]:
    """Build the parts of a family at full size, frozen and in eval mode.

    On the meta device a part takes no memory and milliseconds; elsewhere its weights are random, a function of
    `seed`.

    Args:
        family: Key of `ARCHITECTURES`.
        device: Where the weights lie.
        dtype: Of the weights; float32 if none is given.
        only: Names of the parts wanted; all if none are given.
        seed: Of the random weights.

    Raises:
        ValueError: If the family is unknown or has no such part.
    """
    import torch

    parts = architecture(family).parts
    wanted = list(parts) if only is None else list(only)
    if unknown := [name for name in wanted if name not in parts]:
        raise ValueError(f"{family} has no part {unknown[0]!r}; expected some of {', '.join(parts)}")
    device = torch.device(device)
    built = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for name in wanted:
            torch.manual_seed(seed)  # initialisers know only the global generator: put back right after
            with device:
                built[name] = parts[name].build()
            if dtype is not None:
                built[name] = built[name].to(dtype)
    return built


def example_inputs(
    family: str,
    image_size: int | None = None,
    batch_size: int = 1,
    *,
    num_tokens: int | None = None,
    dtype: torch.dtype | None = None,
) -> CallInputs:
    """Return the arguments of one call of each part on the meta device, shaped as in one training step.

    Args:
        family: Key of `ARCHITECTURES`.
        image_size: Side in pixels, a multiple of 16; that of the published weights if none is given.
        batch_size: Images in the batch.
        num_tokens: Prompt length; that of the family if none is given.
        dtype: Of the floats; bfloat16 if none is given.

    Returns:
        Keyword arguments by call: `denoiser`, `text_encoder`, `vae.encode`, `vae.decode` and so on.

    Raises:
        ValueError: If the family is unknown, or the image size is not a multiple of 16, or the family has one
            prompt length and it is another.
    """
    import torch

    known = architecture(family)
    side = image_size or known.image_size
    if side % 16:
        raise ValueError(f"image size must be a multiple of 16 for {family}, got {side}")
    length = num_tokens or known.num_tokens
    if known.fixed_tokens and length != known.num_tokens:
        raise ValueError(f"prompts of {family} have {known.num_tokens} tokens, got {length}")
    return known.inputs(InputSize(batch_size, side, length, dtype or torch.bfloat16))
