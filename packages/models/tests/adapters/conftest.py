"""Miniatures of the real denoisers with random weights, each with inputs that depend on every adapter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    Kandinsky3UNet,
    PixArtTransformer2DModel,
    PriorTransformer,
    UNet2DConditionModel,
)
from medgen_models.adapters.targets import AdapterFamily
from medgen_models.adapters.wiring import adapter_parameters
from medgen_models.class_dit.tiny import tiny_dit
from medgen_models.tiny import TINY_MSDM
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel


@dataclass(frozen=True)
class Miniature:
    """A tiny network of a family and a call of it."""

    module: nn.Module
    family: AdapterFamily
    call: Callable[[nn.Module], Tensor]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixart() -> tuple[nn.Module, dict[str, Any]]:
    module = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    return module, {
        "hidden_states": normal(2, 4, 8, 8, seed=1),
        "encoder_hidden_states": normal(2, 5, 12, seed=2),
        "timestep": torch.tensor([3, 700]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def sd() -> tuple[nn.Module, dict[str, Any]]:
    module = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    return module, {
        "sample": normal(2, 4, 8, 8, seed=1),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": normal(2, 5, 32, seed=2),
    }


def sdxl() -> tuple[nn.Module, dict[str, Any]]:
    module = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), norm_num_groups=4, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    return module, {
        "sample": normal(2, 4, 8, 8, seed=1),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": normal(2, 5, 64, seed=2),
        "added_cond_kwargs": {"text_embeds": normal(2, 32, seed=3), "time_ids": normal(2, 6, seed=4)},
    }


def hunyuan_dit() -> tuple[nn.Module, dict[str, Any]]:
    module = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=2, mlp_ratio=2.0, cross_attention_dim=8, cross_attention_dim_t5=8, pooled_projection_dim=4,
        text_len=4, text_len_t5=4, activation_fn="gelu-approximate", norm_type="layer_norm", learn_sigma=True,
    )  # fmt: skip
    rotary = normal(16, 8, seed=9)
    return module, {
        "hidden_states": normal(2, 4, 8, 8, seed=1),
        "timestep": torch.tensor([3.0, 700.0]),
        "encoder_hidden_states": normal(2, 4, 8, seed=2),
        "text_embedding_mask": torch.ones(2, 4),
        "encoder_hidden_states_t5": normal(2, 4, 8, seed=3),
        "text_embedding_mask_t5": torch.ones(2, 4),
        "image_meta_size": torch.ones(2, 6),
        "style": torch.zeros(2, dtype=torch.long),
        "image_rotary_emb": (rotary.cos(), rotary.sin()),
    }


def kandinsky22_prior() -> tuple[nn.Module, dict[str, Any]]:
    module = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=8, num_embeddings=5
    )
    return module, {
        "hidden_states": normal(2, 8, seed=1),
        "timestep": torch.tensor([3, 700]),
        "proj_embedding": normal(2, 8, seed=2),
        "encoder_hidden_states": normal(2, 5, 8, seed=3),
        "attention_mask": torch.ones(2, 5, dtype=torch.bool),
    }


def kandinsky22_decoder() -> tuple[nn.Module, dict[str, Any]]:
    module = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=8, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="image", addition_embed_type_num_heads=2, encoder_hid_dim=8,
        encoder_hid_dim_type="image_proj", cross_attention_dim=8, attention_head_dim=8,
        resnet_time_scale_shift="scale_shift", norm_num_groups=4,
    )  # fmt: skip
    return module, {
        "sample": normal(2, 4, 8, 8, seed=1),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": None,
        "added_cond_kwargs": {"image_embeds": normal(2, 8, seed=2)},
    }


def kandinsky3() -> tuple[nn.Module, dict[str, Any]]:
    module = Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(16, 32), cross_attention_dim=4, encoder_hid_dim=8,
    )  # fmt: skip
    return module, {
        "sample": normal(2, 4, 8, 8, seed=1),
        "timestep": torch.tensor([3.0, 700.0]),
        "encoder_hidden_states": normal(2, 5, 8, seed=2),
        "encoder_attention_mask": torch.ones(2, 5),
    }


def flux() -> tuple[nn.Module, dict[str, Any]]:
    module = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )  # fmt: skip
    return module, {
        "hidden_states": normal(2, 16, 4, seed=1),
        "encoder_hidden_states": normal(2, 5, 32, seed=2),
        "pooled_projections": normal(2, 32, seed=3),
        "timestep": torch.tensor([0.1, 0.9]),
        "guidance": torch.tensor([3.5, 3.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def dit() -> tuple[nn.Module, dict[str, Any]]:
    return tiny_dit().denoiser, {
        "noisy_latents": normal(2, 4, 8, 8, seed=1),
        "timesteps": torch.tensor([3, 700]),
        "class_ids": torch.tensor([0, 2]),
    }


def msdm() -> tuple[nn.Module, dict[str, Any]]:
    return TINY_MSDM.build_unet(text_dim=8), {
        "noisy_latents": normal(2, 4, 4, 4, seed=1),
        "timesteps": torch.tensor([3, 700]),
        "prompt_embeds": normal(2, 5, 8, seed=2),
        "prompt_mask": torch.ones(2, 5, dtype=torch.bool),
    }


BUILDERS: dict[AdapterFamily, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "pixart": pixart,
    "sd": sd,
    "sdxl": sdxl,
    "hunyuan-dit": hunyuan_dit,
    "kandinsky22-prior": kandinsky22_prior,
    "kandinsky22-decoder": kandinsky22_decoder,
    "kandinsky3": kandinsky3,
    "flux": flux,
    "dit": dit,
    "msdm": msdm,
}


def randomise_zeros(module: nn.Module) -> None:
    """Fill what initialisers leave at zero, so that no gradient is blocked by it."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _cast(inner, dtype) for name, inner in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def build(family: AdapterFamily) -> Miniature:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, inputs = BUILDERS[family]()
    randomise_zeros(module)

    def call(network: nn.Module) -> Tensor:
        output = network(**_cast(inputs, next(network.parameters()).dtype))
        sample: Tensor = output if isinstance(output, Tensor) else output[0]
        return sample

    return Miniature(module.eval(), family, call)


def build_clip(*, with_projection: bool) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, projection_dim=32, bos_token_id=98, eos_token_id=99, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = (CLIPTextModelWithProjection if with_projection else CLIPTextModel)(config)
    return module.eval()


def build_t5(*, gated: bool) -> nn.Module:
    config = T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = T5EncoderModel(config)
    return module.eval()


@pytest.fixture(params=list(BUILDERS))
def miniature(request: pytest.FixtureRequest) -> Miniature:
    """One denoiser of each family."""
    return build(request.param)


@pytest.fixture
def new_miniature() -> Callable[[AdapterFamily], Miniature]:
    return build


@pytest.fixture
def new_clip() -> Callable[..., nn.Module]:
    return build_clip


@pytest.fixture
def new_t5() -> Callable[..., nn.Module]:
    return build_t5


@pytest.fixture
def shake() -> Callable[[nn.Module], None]:
    """Move an adapter away from its start, as a training would; the magnitudes too."""

    def move(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in adapter_parameters(module):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))

    return move
