"""The denoiser of MSDM: a UNet that reads the prompt in every block.

Shapes: B batch, Z latent channels, H x W latent size, L prompt tokens, T width of the text encoder,
E width of the embedding.
"""

from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from medgen_models.msdm.blocks import Attention, ResidualBlock, TextBlock, timestep_embedding, zero_init

MASKED = -1e4  # added to the attention score of a padding token


class PromptPooling(nn.Module):
    """Project prompt tokens to the context, and pool them with one attention query.

    `prompt_mean` and `prompt_std` [T] standardise the text encoder's states; MSDM as published has 0 and 1.
    """

    prompt_mean: Tensor
    prompt_std: Tensor

    def __init__(self, text_dim: int, embed_dim: int, num_heads: int, prompt_scale: float) -> None:
        super().__init__()
        self.prompt_scale = prompt_scale
        self.register_buffer("prompt_mean", torch.zeros(text_dim))
        self.register_buffer("prompt_std", torch.ones(text_dim))
        self.project = nn.Sequential(
            nn.Linear(text_dim, embed_dim, bias=False), nn.SiLU(), nn.Linear(embed_dim, embed_dim, bias=False)
        )
        self.pool = Attention(embed_dim, embed_dim, num_heads)

    def forward(self, prompt_embeds: Tensor, attention_bias: Tensor) -> tuple[Tensor, Tensor]:
        """Map prompt_embeds [B, L, T] to the context [B, L, E] and the pooled prompt [B, E]."""
        standardised = (prompt_embeds - self.prompt_mean) / self.prompt_std
        context = self.project(standardised * self.prompt_scale)
        query = context.mean(dim=1, keepdim=True)  # the mean includes padding, as in MSDM's code
        return context, self.pool(query, context, attention_bias)[:, 0]


class Stage(nn.Module):
    """A residual block followed by a text block."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embed_dim: int,
        num_heads: int,
        num_groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(
            in_channels, out_channels, num_groups=num_groups, dropout=dropout, embed_dim=embed_dim
        )
        self.text = TextBlock(
            out_channels,
            context_dim=embed_dim,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_groups=num_groups,
            dropout=dropout,
        )

    def forward(self, features: Tensor, embedding: Tensor, context: Tensor, attention_bias: Tensor) -> Tensor:
        """Map features [B, C_in, H, W] to [B, C_out, H, W]."""
        return self.text(self.residual(features, embedding), embedding, context, attention_bias)


class MsdmUNet(ModelMixin, ConfigMixin):
    """Text-conditional UNet after MSDM; `msdm-256` has 326,508,296 parameters.

    Every level holds residual blocks each followed by cross-attention to the prompt and a feed-forward;
    the pooled prompt is added to the time embedding.

    Args:
        latent_channels: Channels of the latents, Z.
        sample_size: Side of the latents the UNet is trained on.
        channels: Width of each level; every level after the first halves the size.
        blocks_per_level: Stages of a level on the way down; one more on the way up.
        embed_dim: Width of the time and prompt embedding, E.
        text_dim: Width of the text encoder's states, T.
        num_heads: Heads of the cross-attention; divides every width.
        num_groups: Groups of the group norms; divides every width.
        dropout: Probability of dropping a channel in the residual blocks and attention outputs.
        self_conditioning: Concatenate the previous estimate of the clean latents to the input
            (Chen et al. 2022, "Analog Bits", section 3.2).
        time_dim: Width of the sinusoidal time embedding.
        prompt_scale: Factor on the standardised states of the text encoder; MSDM has 1. A larger one lets a
            short training tell prompts apart that differ in a word.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        sample_size: int = 32,  # noqa: ARG002 - kept in config
        channels: tuple[int, ...] = (256, 512, 1024),
        blocks_per_level: int = 2,
        embed_dim: int = 1024,
        text_dim: int = 768,
        num_heads: int = 8,
        num_groups: int = 32,
        dropout: float = 0.1,
        self_conditioning: bool = False,
        time_dim: int = 256,
        prompt_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(
            nn.Linear(time_dim, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim)
        )
        self.prompt = PromptPooling(
            text_dim, embed_dim, num_heads=max(1, embed_dim // 64), prompt_scale=prompt_scale
        )
        in_channels = latent_channels * (2 if self_conditioning else 1)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)

        def stage(narrow: int, wide: int) -> Stage:
            return Stage(
                narrow, wide, embed_dim=embed_dim, num_heads=num_heads, num_groups=num_groups, dropout=dropout
            )

        self.down = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        skip_widths = [channels[0]]
        width = channels[0]
        for level, level_width in enumerate(channels):
            stages = nn.ModuleList()
            for _ in range(blocks_per_level):
                stages.append(stage(width, level_width))
                width = level_width
                skip_widths.append(width)
            self.down.append(stages)
            if level < len(channels) - 1:
                self.downsamplers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skip_widths.append(width)

        self.middle = stage(width, width)
        self.middle_out = ResidualBlock(
            width, width, num_groups=num_groups, dropout=dropout, embed_dim=embed_dim
        )

        self.up = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for level in reversed(range(len(channels))):
            next_width = channels[max(level - 1, 0)]
            stages = nn.ModuleList()
            for block in range(blocks_per_level + 1):
                # The last stage of a level already narrows to the next level's width.
                out_width = next_width if block == blocks_per_level else channels[level]
                stages.append(stage(width + skip_widths.pop(), out_width))
                width = out_width
            self.up.append(stages)
            if level > 0:
                self.upsamplers.append(nn.Conv2d(width, width, 3, padding=1))
        self.conv_out = zero_init(nn.Conv2d(width, latent_channels, 1))

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: Tensor,
        prompt_mask: Tensor,
        previous_estimate: Tensor | None = None,
    ) -> Tensor:
        """Predict the target of diffusion.

        Args:
            noisy_latents: Noisy latents, [B, Z, H, W].
            timesteps: Noise level of each sample, integer in [0, T), [B].
            prompt_embeds: States of the text encoder, [B, L, T].
            prompt_mask: True where a token is not padding, [B, L].
            previous_estimate: Earlier estimate of the clean latents, [B, Z, H, W]; only with
                self-conditioning, where None means a first pass (zeros).

        Returns:
            Prediction, [B, Z, H, W].
        """
        attention_bias = (~prompt_mask[:, None, None, :]).to(noisy_latents.dtype) * MASKED
        context, pooled = self.prompt(prompt_embeds, attention_bias)
        time_states = timestep_embedding(timesteps, self.config.time_dim).to(noisy_latents.dtype)
        embedding = self.time_embed(time_states) + pooled

        features = self.conv_in(self._with_estimate(noisy_latents, previous_estimate))
        skips = [features]
        for level, stages in enumerate(self.down):
            for stage in cast(nn.ModuleList, stages):
                features = stage(features, embedding, context, attention_bias)
                skips.append(features)
            if level < len(self.downsamplers):
                features = self.downsamplers[level](features)
                skips.append(features)
        features = self.middle(features, embedding, context, attention_bias)
        features = self.middle_out(features, embedding)
        for level, stages in enumerate(self.up):
            for stage in cast(nn.ModuleList, stages):
                features = torch.cat([features, skips.pop()], dim=1)
                features = stage(features, embedding, context, attention_bias)
            if level < len(self.upsamplers):
                features = F.interpolate(features, scale_factor=2.0, mode="nearest-exact")
                features = self.upsamplers[level](features)
        return self.conv_out(features)

    @torch.no_grad()
    def fit_prompt_statistics(self, prompt_embeds: Tensor, prompt_mask: Tensor) -> None:
        """Standardise from now on by the mean and deviation of the real tokens of prompts [P, L, T], [P, L].

        States of a frozen language model share a large common part; what tells prompts apart is small beside it.
        """
        tokens = prompt_embeds[prompt_mask].double()
        self.prompt.prompt_mean.copy_(tokens.mean(dim=0))
        self.prompt.prompt_std.copy_(tokens.std(dim=0).clamp_min(1e-6))

    def _with_estimate(self, noisy_latents: Tensor, previous_estimate: Tensor | None) -> Tensor:
        if not self.config.self_conditioning:
            return noisy_latents
        if previous_estimate is None:
            previous_estimate = torch.zeros_like(noisy_latents)
        return torch.cat([noisy_latents, previous_estimate], dim=1)
