"""The text and image encoders that several families share."""

from medgen_models.architectures.specification import Part

# The text tower of openai/clip-vit-large-patch14.
CLIP_L = Part(
    model_class="CLIPTextModel",
    config_class="CLIPTextConfig",
    config={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
    hub_folder="text_encoder",
)

_BIG_G_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}

# laion/CLIP-ViT-bigG-14-laion2B-39B-b160k, text and image tower.
CLIP_BIG_G_TEXT = Part(
    model_class="CLIPTextModelWithProjection",
    config_class="CLIPTextConfig",
    config=_BIG_G_TEXT,
    hub_folder="text_encoder",
)
CLIP_BIG_G_TEXT_2 = Part(
    model_class="CLIPTextModelWithProjection",
    config_class="CLIPTextConfig",
    config=_BIG_G_TEXT,
    hub_folder="text_encoder_2",
)
CLIP_BIG_G_IMAGE = Part(
    model_class="CLIPVisionModelWithProjection",
    config_class="CLIPVisionConfig",
    config={
        "hidden_size": 1664,
        "intermediate_size": 8192,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
    hub_folder="image_encoder",
)

_T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "tie_word_embeddings": False,
}

# The encoder of google/t5-v1_1-xxl. Its feed-forward is gated: wi_0 and wi_1, and nothing is called wi.
T5_XXL = Part(
    model_class="T5EncoderModel",
    config_class="T5Config",
    config=_T5_XXL,
    hub_folder="text_encoder",
)
T5_XXL_2 = Part(
    model_class="T5EncoderModel",
    config_class="T5Config",
    config=_T5_XXL,
    hub_folder="text_encoder_2",
)
