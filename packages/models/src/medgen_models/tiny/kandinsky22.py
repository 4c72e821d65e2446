"""Miniatures of Kandinsky 2.2: a prior of 32 numbers, and a decoder of 16 px."""

from pathlib import Path

import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from medgen_models.tiny.movq import tiny_movq
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_clip_encoder

EMBEDDING_DIM = 32
MAX_TOKENS = 24


def tiny_kandinsky22_prior(seed: int = 0) -> KandinskyV22PriorPipeline:
    """Return a prior with random weights and random statistics of its embeddings."""
    text_encoder, tokenizer = tiny_clip_encoder(
        seed, max_tokens=MAX_TOKENS, width=EMBEDDING_DIM, projection_dim=EMBEDDING_DIM
    )
    vision_config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=EMBEDDING_DIM,
    )
    prior = random_weights(
        lambda: PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            embedding_dim=EMBEDDING_DIM,
            num_embeddings=MAX_TOKENS,
            additional_embeddings=4,
        ),
        seed,
    )
    with torch.no_grad():
        prior.clip_std.copy_(prior.clip_std.abs() + 0.5)  # a standard deviation is positive
    return KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=random_weights(lambda: CLIPVisionModelWithProjection(vision_config), seed),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
        ),
    )


def tiny_kandinsky22_decoder(seed: int = 0) -> KandinskyV22Pipeline:
    """Return a decoder with random weights, whose images are twice as large as its latents."""
    unet = random_weights(
        lambda: UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
            addition_embed_type="image",
            addition_embed_type_num_heads=2,
            encoder_hid_dim=EMBEDDING_DIM,
            encoder_hid_dim_type="image_proj",
        ),
        seed,
    )
    return KandinskyV22Pipeline(
        unet=unet,
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="linear",
            clip_sample=False,
            variance_type="learned_range",
        ),
        movq=tiny_movq(seed),
    )


def write_tiny_kandinsky22_prior(folder: Path, seed: int = 0) -> Path:
    """Write the prior as the folder of a diffusers pipeline, and return it."""
    tiny_kandinsky22_prior(seed).save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_kandinsky22_decoder(folder: Path, seed: int = 0) -> Path:
    """Write the decoder as the folder of a diffusers pipeline, and return it."""
    tiny_kandinsky22_decoder(seed).save_pretrained(folder, safe_serialization=True)
    return folder
