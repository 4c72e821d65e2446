import pytest
import torch
from medgen_models.fused_attention import FusedAttention
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 64, 16, 8


def _query_key_value(dtype: torch.dtype, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.empty(BATCH, HEADS, QUERIES, width, device="meta", dtype=dtype, requires_grad=True)
    key, value = (
        torch.empty(BATCH, HEADS, KEYS, width, device="meta", dtype=dtype, requires_grad=True)
        for _ in range(2)
    )
    return query, key, value


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mask_shape", [None, (BATCH, 1, 1, KEYS), (BATCH, HEADS, QUERIES, KEYS)])
def test_two_matrix_products_are_counted_forwards_and_five_backwards(
    dtype: torch.dtype, mask_shape: tuple[int, ...] | None
) -> None:
    query, key, value = _query_key_value(dtype)
    mask = None if mask_shape is None else torch.empty(mask_shape, device="meta", dtype=torch.bool)
    one_product = 2 * BATCH * HEADS * QUERIES * KEYS * WIDTH
    with FusedAttention(), FlopCounterMode(display=False) as flops:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        assert flops.get_total_flops() == 2 * one_product
        torch.autograd.grad(attended.sum(), (query, key, value))
        assert (
            flops.get_total_flops() == 7 * one_product
        )  # the weights are computed once more on the way back
    assert attended.shape == query.shape


@pytest.mark.parametrize("width", [WIDTH, 512])
def test_the_matrix_of_weights_is_not_kept(width: int) -> None:
    query, key, value = _query_key_value(torch.bfloat16, width)
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with FusedAttention(), saved_tensors_hooks(note, lambda tensor: tensor):
        F.scaled_dot_product_attention(query, key, value)
    assert tuple(query.shape) in kept
    assert (BATCH, HEADS, QUERIES, KEYS) not in kept


def test_attention_that_is_computed_stays_as_it_is() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    with FusedAttention():
        assert torch.equal(F.scaled_dot_product_attention(query, key, value, is_causal=True), expected)
        assert torch.equal(torch.relu(query), query.clamp(min=0))
