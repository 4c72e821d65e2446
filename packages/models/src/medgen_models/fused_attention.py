"""Attention as a GPU runs it, where there is no GPU.

On the meta device `scaled_dot_product_attention` falls apart into matrix products that keep the matrix of weights
[B, H, L, L] for the backward pass. A GPU runs fused kernels that keep one number per query instead. The mode below
sends every call to the operators of those kernels, whose shapes and costs the meta device knows.

Shapes: B batch, H heads, L queries, M keys, E width of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MAX_FLASH_WIDTH = 256  # wider heads, as in the middle of an image autoencoder, have no flash kernel


class FusedAttention(TorchFunctionMode):
    """Within it, attention on meta tensors is one operator: flash without a mask, memory-efficient otherwise."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Divert attention, and pass everything else on."""
        call = _attention if func is F.scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return attention [B, H, L, E] by the operator that a GPU would choose."""
    if not query.is_meta or query.ndim != 4 or enable_gqa:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    half = query.dtype in {torch.bfloat16, torch.float16}
    if attn_mask is None and half and query.shape[-1] <= MAX_FLASH_WIDTH:
        outputs = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )
        return outputs[0]
    bias = None if attn_mask is None else _bias(attn_mask, query, key)
    keeps_sums = any(tensor.requires_grad for tensor in (query, key, value))
    outputs = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, keeps_sums, dropout_p, is_causal, scale=scale
    )
    return outputs[0]


def _bias(attn_mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return a mask as the additive bias [B, H, L, M] that the kernel takes, expanded without a copy."""
    bias = attn_mask.to(query.dtype)  # a boolean mask becomes zeros and minus infinities of this size
    return bias.expand(*query.shape[:3], key.shape[2])
