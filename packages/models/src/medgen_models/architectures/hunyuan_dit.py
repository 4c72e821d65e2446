"""Hunyuan-DiT 1.1 (Li et al. 2024): a transformer with skips that reads a Chinese CLIP and mT5.

Version 1.2 drops the style and image-size embeddings and has 1,499,952,032 parameters instead of 1,516,534,048.
"""

from medgen_models.architectures.autoencoders import SDXL_VAE
from medgen_models.architectures.specification import (
    Architecture,
    CallInputs,
    InputSize,
    Part,
    gaussian_latents,
)

_CLIP_TOKENS = 77  # the first encoder's length; the prompt length of the family is that of mT5

DENOISER = Part(
    model_class="HunyuanDiT2DModel",
    config={
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": 128,
        "hidden_size": 1408,
        "num_layers": 40,
        "mlp_ratio": 4.3637,
        "learn_sigma": True,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "pooled_projection_dim": 1024,
        "text_len": _CLIP_TOKENS,
        "text_len_t5": 256,
        "use_style_cond_and_image_meta_size": True,
    },
    hub_folder="transformer",
)
BERT = Part(
    model_class="BertModel",
    config_class="BertConfig",
    config={
        "vocab_size": 47020,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    hub_folder="text_encoder",
)
MT5_XL = Part(
    model_class="T5EncoderModel",
    config_class="T5Config",
    config={
        "vocab_size": 250112,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
    },
    hub_folder="text_encoder_2",
)


def _inputs(size: InputSize) -> CallInputs:
    num_patches = (size.image_size // 16) ** 2
    rotary = size.floats(num_patches, 88)[0]
    return {
        "denoiser": {
            "hidden_states": size.latents(4),
            "timestep": size.timesteps(),
            "encoder_hidden_states": size.floats(_CLIP_TOKENS, 1024),
            "text_embedding_mask": size.token_ids(_CLIP_TOKENS),
            "encoder_hidden_states_t5": size.floats(size.num_tokens, 2048),
            "text_embedding_mask_t5": size.token_ids(),
            "image_meta_size": size.floats(6),
            "style": size.timesteps(),
            "image_rotary_emb": (rotary, rotary),
        },
        "text_encoder": {"input_ids": size.token_ids(_CLIP_TOKENS)},
        "text_encoder_2": {"input_ids": size.token_ids()},
        "vae.encode": {"x": size.latents(3, 1)},
        "vae.decode": {"z": size.latents(4)},
    }


HUNYUAN_DIT = Architecture(
    hub_name="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
    parts={"denoiser": DENOISER, "text_encoder": BERT, "text_encoder_2": MT5_XL, "vae": SDXL_VAE},
    image_size=1024,
    num_tokens=256,
    latent_shapes=gaussian_latents(4),
    prompt_shapes=lambda num_tokens: ((_CLIP_TOKENS, 1024), (num_tokens, 2048)),
    inputs=_inputs,
    fixed_tokens=True,
)
