"""Autoencoders of the Stable Diffusion kind with random weights."""

from diffusers import AutoencoderKL

from medgen_models.tiny.random_weights import random_weights


def tiny_autoencoder(
    seed: int,
    *,
    latent_channels: int = 4,
    scaling_factor: float = 0.18215,
    shift_factor: float | None = None,
    quant_convs: bool = True,
) -> AutoencoderKL:
    """Return an autoencoder of 16 px images and latents of half the size, with random weights.

    Args:
        seed: Seed of the weights.
        latent_channels: C of the latents.
        scaling_factor: Factor on the latents.
        shift_factor: What is taken off the latents before; None: nothing.
        quant_convs: Whether there are convolutions of 1 x 1 around the latents; FLUX has none.
    """
    return random_weights(
        lambda: AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            use_quant_conv=quant_convs,
            use_post_quant_conv=quant_convs,
        ),
        seed,
    )
