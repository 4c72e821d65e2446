"""One picture of the first batch as the denoiser will see it: decoded latents beside their prompts.

A wrong pairing of images and captions, a wrong scale or a dead autoencoder is seen here before the first step.
"""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from medgen_data.atomic import write_bytes_atomic
from medgen_models import TextToImageModel
from medgen_models.sampling import to_uint8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE_PX = 128
TEXT_PX = 250
NUM_COLUMNS = 3


@torch.no_grad()
def write_contact_sheet(
    model: TextToImageModel, latents: Tensor, prompts: Sequence[str], sheet_file: Path, *, most: int = 12
) -> None:
    """Decode up to `most` latents [B, C, H, W] and write them beside their prompts as one PNG."""
    images = to_uint8(model.decode_latents(latents[:most]))
    num_rows = -(-len(images) // NUM_COLUMNS)
    cell_width = TILE_PX + TEXT_PX
    sheet = Image.new("RGB", (NUM_COLUMNS * cell_width, num_rows * (TILE_PX + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for index, (image, prompt) in enumerate(zip(images, prompts, strict=False)):
        left, top = index % NUM_COLUMNS * cell_width, index // NUM_COLUMNS * (TILE_PX + 8)
        tile = Image.fromarray(image).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
        sheet.paste(tile, (left, top))
        text = "\n".join(textwrap.wrap(prompt or "(empty prompt)", 36)[:8])
        draw.multiline_text((left + TILE_PX + 8, top + 4), text, fill="black", font=font)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    write_bytes_atomic(sheet_file, stream.getvalue())
