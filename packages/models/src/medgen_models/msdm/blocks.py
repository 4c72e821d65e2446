"""Building blocks of MSDM: residual block, adaptive group norm, text attention, feed-forward.

Shapes: B batch, C channels, H x W feature size, L prompt tokens, E width of the embeddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_init(layer: nn.Module) -> nn.Module:
    """Set every parameter of a layer to zero, so that the branch it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class HalfBlock(nn.Module):
    """One half of a residual block: SiLU(Dropout(GroupNorm(conv(x)))) + skip(x)."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.GroupNorm(num_groups, out_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C_in, H, W] to [B, C_out, H, W]."""
        return F.silu(self.dropout(self.norm(self.conv(features)))) + self.skip(features)


class ResidualBlock(nn.Module):
    """Two half blocks; an embedding, where there is one, is added between them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_groups: int,
        dropout: float = 0.0,
        embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.first = HalfBlock(in_channels, out_channels, num_groups, dropout)
        self.second = HalfBlock(out_channels, out_channels, num_groups, dropout)
        zero_init(self.second.conv)
        self.embed = None if embed_dim is None else nn.Linear(embed_dim, out_channels)

    def forward(self, features: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map features [B, C_in, H, W] and an embedding [B, E] to [B, C_out, H, W]."""
        features = self.first(features)
        if self.embed is not None:
            assert embedding is not None
            features = features + self.embed(F.silu(embedding))[:, :, None, None]
        return self.second(features)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm without own affine; scale and shift come from the embedding and start at zero."""

    def __init__(self, channels: int, embed_dim: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, affine=False)
        self.scale_and_shift = zero_init(nn.Linear(embed_dim, 2 * channels))

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Normalise features [B, C, H, W] with an embedding [B, E]."""
        scale, shift = self.scale_and_shift(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        return self.norm(features) * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention of queries [B, N, C] to a context [B, L, E], without biases."""

    def __init__(self, query_dim: int, context_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(query_dim, query_dim, bias=False)
        self.to_k = nn.Linear(context_dim, query_dim, bias=False)
        self.to_v = nn.Linear(context_dim, query_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(query_dim, query_dim, bias=False), nn.Dropout(dropout)])

    def forward(self, queries: Tensor, context: Tensor, attention_bias: Tensor) -> Tensor:
        """Attend; `attention_bias` [B, 1, 1, L] is added to the scores (0 keeps, very negative masks)."""
        q, k, v = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.to_q, queries), (self.to_k, context), (self.to_v, context))
        )
        # One dense row of biases for all queries: the fused kernels want the full shape.
        bias = attention_bias.expand(-1, 1, q.shape[2], -1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = attended.transpose(1, 2).flatten(2)
        for layer in self.to_out:
            out = layer(out)
        return out


class TextBlock(nn.Module):
    """Cross-attention to the prompt, then feed-forward; both normalised by the embedding.

    x += Attention(AdaGN(x, e), text);  x += FeedForward(AdaGN(x, e)).
    There is no spatial self-attention anywhere in MSDM.
    """

    def __init__(
        self,
        channels: int,
        *,
        context_dim: int,
        embed_dim: int,
        num_heads: int,
        num_groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = AdaptiveGroupNorm(channels, embed_dim, num_groups)
        self.attention = Attention(channels, context_dim, num_heads, dropout)
        self.feed_forward_norm = AdaptiveGroupNorm(channels, embed_dim, num_groups)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 1, bias=False),
            nn.SiLU(),
            nn.Conv2d(4 * channels, channels, 1, bias=False),
        )

    def forward(self, features: Tensor, embedding: Tensor, context: Tensor, attention_bias: Tensor) -> Tensor:
        """Map features [B, C, H, W] given an embedding [B, E] and a context [B, L, E]."""
        height = features.shape[2]
        queries = self.attention_norm(features, embedding).flatten(2).transpose(1, 2)  # [B, HW, C]
        attended = self.attention(queries, context, attention_bias).transpose(1, 2)
        features = features + attended.unflatten(2, (height, -1))
        return features + self.feed_forward(self.feed_forward_norm(features, embedding))


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Return sinusoidal embeddings [B, dim] of timesteps [B]: sines, then cosines.

    Frequencies fall from 1 to 1 / max_period inclusive, dim // 2 of them.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / (half - 1)
    angles = timesteps.float()[:, None] * torch.exp(-torch.log(torch.tensor(max_period)) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
