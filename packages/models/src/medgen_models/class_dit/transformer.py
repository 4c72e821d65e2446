"""The denoiser of class-conditional DiT: a vision transformer over patches of latents (Peebles & Xie 2023).

Shapes: B batch, C latent channels, H x W latent size, P patch side, N = (H / P)(W / P) tokens, D width.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

MAX_PERIOD = 10_000.0  # of every sinusoid here


def patchify(latents: Tensor, patch_size: int) -> Tensor:
    """Cut latents [B, C, H, W] into non-overlapping patches [B, N, P * P * C], row by row, channels last."""
    rows = latents.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [B, C, H/P, P, W/P, P]
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """Put patches [B, N, P * P * C] of a square back together, [B, C, H, W]; the inverse of `patchify`."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, (side, side))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sinusoids(positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the sines and the cosines of positions [N], each [N, dim / 2].

    Frequencies are MAX_PERIOD ** (-i / (dim / 2)) for i = 0 ... dim / 2 - 1.
    """
    exponents = torch.arange(dim // 2, dtype=positions.dtype, device=positions.device) / (dim // 2)
    angles = positions[:, None] * MAX_PERIOD**-exponents
    return angles.sin(), angles.cos()


def position_table(grid_size: int, dim: int) -> Tensor:
    """Return the fixed positions of a square grid of tokens, [grid_size ** 2, dim], row by row.

    The first half of the width encodes the column, the second the row; sines stand before cosines in each.
    """
    axis = torch.cat(sinusoids(torch.arange(grid_size, dtype=torch.float64), dim // 2), dim=1)
    columns, rows = axis.repeat(grid_size, 1), axis.repeat_interleave(grid_size, dim=0)
    return torch.cat([columns, rows], dim=1).float()


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens [B, N, D] scaled by 1 + scale and shifted, both [B, 1, D]."""
    return tokens * (1 + scale) + shift


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, N, D] to [B, N, D]."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DitBlock(nn.Module):
    """A transformer block with adaLN-Zero: norms are modulated and branches gated by the conditioning.

    x += g1 Attention((1 + s1) LN(x) + b1);  x += g2 MLP((1 + s2) LN(x) + b2)   (section 3.2)
    All six start at zero, so a fresh block is the identity.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(width, num_heads)
        self.feed_forward_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        """Map tokens [B, N, D] given an activated conditioning [B, D]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(conditioning)[:, None].chunk(
            6, -1
        )
        attended = self.attention(modulate(self.attention_norm(tokens), shift_1, scale_1))
        tokens = tokens + gate_1 * attended
        fed_forward = self.feed_forward(modulate(self.feed_forward_norm(tokens), shift_2, scale_2))
        return tokens + gate_2 * fed_forward


class ClassDit(ModelMixin, ConfigMixin):
    """Class-conditional DiT with a learned variance; `dit-s-8` with 8 classes has 32,785,664 parameters.

    The count holds the fixed sin-cos table of positions (24,576), a parameter that takes no gradient; every other
    one is trained. Class `num_classes` is the null class of classifier-free guidance.

    Args:
        num_classes: Classes without the null class.
        latent_channels: Channels of the latents, C.
        sample_size: Side of the latents, H = W.
        patch_size: Side of a patch, P; divides `sample_size`.
        width: Width of the tokens, D; a multiple of 4 and of `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads.
        time_dim: Width of the sinusoidal time embedding.

    Raises:
        ValueError: If patches do not tile the latents, or the width cannot be divided.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ("DitBlock",)
    _no_split_modules = ("DitBlock",)

    @register_to_config
    def __init__(
        self,
        num_classes: int,
        latent_channels: int = 4,
        sample_size: int = 64,
        patch_size: int = 8,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        time_dim: int = 256,
    ) -> None:
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"sample_size must be a multiple of patch_size {patch_size}, got {sample_size}")
        if width % num_heads or width % 4:
            raise ValueError(f"width must be a multiple of 4 and of num_heads {num_heads}, got {width}")
        self.gradient_checkpointing = False
        self.embed_patches = nn.Linear(patch_size**2 * latent_channels, width)
        self.positions = nn.Parameter(position_table(sample_size // patch_size, width), requires_grad=False)
        self.embed_time = nn.Sequential(nn.Linear(time_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_class = nn.Embedding(num_classes + 1, width)
        self.blocks = nn.ModuleList(DitBlock(width, num_heads) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.to_patches = nn.Linear(width, patch_size**2 * 2 * latent_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier everywhere, small normal embeddings, and zero where a branch or the network ends."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.embed_class, *self.embed_time):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        modulations = [block.modulation for block in self.modules() if isinstance(block, DitBlock)]
        for layer in (*modulations, self.final_modulation, self.to_patches):
            nn.init.zeros_(layer.weight)

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, class_ids: Tensor) -> Tensor:
        """Predict the target of diffusion and its variance.

        Args:
            noisy_latents: Noisy latents, [B, C, H, W].
            timesteps: Noise level of each sample, integer in [0, T), [B].
            class_ids: Class of each sample, integer in [0, num_classes], [B].

        Returns:
            Prediction in the first C channels; in the others where the log variance lies between its bounds,
            -1 the lower and 1 the upper; [B, 2 C, H, W] in the dtype of `noisy_latents`.

        Raises:
            ValueError: If the latents are not of the size the positions are made for.
        """
        channels, side = self.config.latent_channels, self.config.sample_size
        if noisy_latents.shape[1:] != (channels, side, side):
            raise ValueError(
                f"noisy_latents must be [B, {channels}, {side}, {side}], got {tuple(noisy_latents.shape)}"
            )
        dtype = self.embed_class.weight.dtype
        patches = patchify(noisy_latents.to(dtype), self.config.patch_size)
        tokens = self.embed_patches(patches) + self.positions
        sines, cosines = sinusoids(timesteps.float(), self.config.time_dim)
        time_states = torch.cat([cosines, sines], dim=1).to(dtype)
        conditioning = F.silu(self.embed_time(time_states) + self.embed_class(class_ids))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = self._gradient_checkpointing_func(block, tokens, conditioning)
            else:
                tokens = block(tokens, conditioning)
        shift, scale = self.final_modulation(conditioning)[:, None].chunk(2, dim=-1)
        patches = self.to_patches(modulate(self.final_norm(tokens), shift, scale))
        return unpatchify(patches, self.config.patch_size).to(noisy_latents.dtype)
