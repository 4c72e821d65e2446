"""Kandinsky 2.2 (Razzhigaev et al. 2023): a prior from text to an image embedding, a decoder from there to pixels.

The two are trained apart, so each is an architecture of its own with the parts that its training needs.
"""

from dataclasses import replace

from medgen_models.architectures.autoencoders import MOVQ_67M
from medgen_models.architectures.specification import Architecture, CallInputs, InputSize, Part
from medgen_models.architectures.text_encoders import CLIP_BIG_G_IMAGE, CLIP_BIG_G_TEXT

PRIOR_HUB_NAME = "kandinsky-community/kandinsky-2-2-prior"

PRIOR = Part(
    model_class="PriorTransformer",
    config={
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "num_layers": 20,
        "embedding_dim": 1280,
        "num_embeddings": 77,
        "additional_embeddings": 4,
    },
    hub_folder="prior",
)
DECODER = Part(
    model_class="UNet2DConditionModel",
    config={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 8,
        "block_out_channels": (384, 768, 1152, 1536),
        "layers_per_block": 3,
        "down_block_types": ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
        "cross_attention_dim": 768,
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
        "addition_embed_type": "image",
        "addition_embed_type_num_heads": 64,
        "encoder_hid_dim": 1280,
        "encoder_hid_dim_type": "image_proj",
    },
    hub_folder="unet",
)


def _prior_inputs(size: InputSize) -> CallInputs:
    return {
        "denoiser": {
            "hidden_states": size.floats(1280),
            "timestep": size.timesteps(),
            "proj_embedding": size.floats(1280),
            "encoder_hidden_states": size.floats(size.num_tokens, 1280),
            "attention_mask": size.token_ids().bool(),
        },
        "text_encoder": {"input_ids": size.token_ids()},
        "image_encoder": {"pixel_values": size.floats(3, 224, 224)},
    }


def _decoder_inputs(size: InputSize) -> CallInputs:
    return {
        "denoiser": {
            "sample": size.latents(4),
            "timestep": size.timesteps(),
            "encoder_hidden_states": None,
            "added_cond_kwargs": {"image_embeds": size.floats(1280)},
        },
        "image_encoder": {"pixel_values": size.floats(3, 224, 224)},
        "vae.encode": {"x": size.latents(3, 1)},
        # The diffusion runs on latents before quantisation, and so does the decoder.
        "vae.decode": {"h": size.latents(4), "force_not_quantize": True},
    }


KANDINSKY22_PRIOR = Architecture(
    hub_name=PRIOR_HUB_NAME,
    parts={"denoiser": PRIOR, "text_encoder": CLIP_BIG_G_TEXT, "image_encoder": CLIP_BIG_G_IMAGE},
    image_size=224,
    num_tokens=77,
    latent_shapes=lambda _: ((1280,),),
    prompt_shapes=lambda num_tokens: ((num_tokens, 1280), (1280,)),
    inputs=_prior_inputs,
    fixed_tokens=True,
)
KANDINSKY22_DECODER = Architecture(
    hub_name="kandinsky-community/kandinsky-2-2-decoder",
    parts={
        "denoiser": DECODER,
        "image_encoder": replace(CLIP_BIG_G_IMAGE, hub_name=PRIOR_HUB_NAME),
        "vae": MOVQ_67M,
    },
    image_size=512,
    num_tokens=77,
    # MoVQ latents are deterministic; the embedding of the training image stands where a prompt would.
    latent_shapes=lambda image_size: ((4, image_size // 8, image_size // 8), (1280,)),
    prompt_shapes=lambda _: (),
    inputs=_decoder_inputs,
)
