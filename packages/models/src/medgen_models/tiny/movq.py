"""A miniature MoVQ, the autoencoder of Kandinsky."""

import torch
from diffusers import VQModel

from medgen_models.tiny.random_weights import random_weights


def tiny_movq(seed: int) -> VQModel:
    """Return an autoencoder of 16 px images and latents of half the size, with random weights.

    Its spatial normalisation always has 32 groups, so no level can be narrower.
    """
    movq = random_weights(
        lambda: VQModel(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=32,
            norm_type="spatial",
            num_vq_embeddings=16,
            vq_embed_dim=4,
        ),
        seed,
    )
    with torch.no_grad():
        movq.decoder.conv_out.weight.mul_(0.1)  # or most pixels would lie outside [-1, 1] and be clamped
    return movq
