"""Kandinsky 3 (Arkhipkin et al. 2023): a convolutional UNet that reads FLAN-UL2."""

from medgen_models.architectures.autoencoders import MOVQ_270M
from medgen_models.architectures.specification import Architecture, CallInputs, InputSize, Part

DENOISER = Part(
    model_class="Kandinsky3UNet",
    config={
        "in_channels": 4,
        "time_embedding_dim": 1536,
        "groups": 32,
        "attention_head_dim": 64,
        "layers_per_block": 3,
        "block_out_channels": (384, 768, 1536, 3072),
        "cross_attention_dim": 4096,
        "encoder_hid_dim": 4096,
    },
    hub_folder="unet",
)
FLAN_UL2 = Part(
    model_class="T5EncoderModel",
    config_class="T5Config",
    config={
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 256,
        "d_ff": 16384,
        "num_layers": 32,
        "num_heads": 16,
        "feed_forward_proj": "gated-silu",
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
    },
    hub_folder="text_encoder",
)


def _inputs(size: InputSize) -> CallInputs:
    return {
        "denoiser": {
            "sample": size.latents(4),
            "timestep": size.timesteps(),
            "encoder_hidden_states": size.floats(size.num_tokens, 4096),
            "encoder_attention_mask": size.floats(size.num_tokens),
        },
        "text_encoder": {"input_ids": size.token_ids()},
        "vae.encode": {"x": size.latents(3, 1)},
        # The diffusion runs on latents before quantisation, and so does the decoder.
        "vae.decode": {"h": size.latents(4), "force_not_quantize": True},
    }


KANDINSKY3 = Architecture(
    hub_name="kandinsky-community/kandinsky-3",
    parts={"denoiser": DENOISER, "text_encoder": FLAN_UL2, "vae": MOVQ_270M},
    image_size=1024,
    num_tokens=128,
    latent_shapes=lambda image_size: ((4, image_size // 8, image_size // 8),),
    prompt_shapes=lambda num_tokens: ((num_tokens, 4096),),
    inputs=_inputs,
)
