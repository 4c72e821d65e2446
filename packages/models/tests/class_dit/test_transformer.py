import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_timestep_embedding
from medgen_models.class_dit.presets import DIT_PRESETS
from medgen_models.class_dit.tiny import TINY_DIT, tiny_dit
from medgen_models.class_dit.transformer import (
    ClassDit,
    DitBlock,
    SelfAttention,
    patchify,
    position_table,
    sinusoids,
    unpatchify,
)
from torch import Tensor, nn


@pytest.fixture
def transformer() -> ClassDit:
    return tiny_dit(seed=3).denoiser


def random_inputs(num_samples: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(num_samples, 4, 8, 8, generator=generator)
    timesteps = torch.randint(1000, (num_samples,), generator=generator)
    return latents, timesteps, torch.randint(3, (num_samples,), generator=generator)


def test_parameter_count_is_that_of_the_published_model() -> None:
    preset = DIT_PRESETS["dit-s-8"]
    with torch.device("meta"):
        transformer = preset.build_transformer(num_classes=8)
    assert sum(p.numel() for p in transformer.parameters()) == 32_785_664
    assert sum(p.numel() for p in transformer.parameters() if p.requires_grad) == 32_785_664 - 24_576
    assert transformer.positions.shape == (64, 384)
    assert transformer.embed_class.num_embeddings == 9  # one more row: the null class
    assert (preset.image_size, preset.latent_size, len(transformer.blocks)) == (512, 64, 12)


def test_patches_go_back_to_where_they_came_from() -> None:
    latents = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    for patch_size in (1, 2, 4, 8):
        patches = patchify(latents, patch_size)
        assert patches.shape == (2, (8 // patch_size) ** 2, 3 * patch_size**2)
        assert torch.equal(unpatchify(patches, patch_size), latents)


def test_a_patch_holds_the_pixels_of_its_square() -> None:
    latents = torch.arange(3 * 8 * 8).view(1, 3, 8, 8)
    square = latents[0, :, 4:8, 0:4]  # second row of patches, first column
    assert torch.equal(patchify(latents, 4)[0, 2].view(4, 4, 3).permute(2, 0, 1), square)


def test_position_table_agrees_with_the_independent_one() -> None:
    theirs = get_2d_sincos_pos_embed(32, 5, base_size=5, output_type="pt")
    torch.testing.assert_close(position_table(5, 32), theirs.float(), rtol=0, atol=1e-5)


def test_time_frequencies_agree_with_the_independent_ones() -> None:
    timesteps = torch.tensor([0.0, 1, 250, 999])
    theirs = get_timestep_embedding(timesteps, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    sines, cosines = sinusoids(timesteps, 256)
    torch.testing.assert_close(torch.cat([cosines, sines], dim=1), theirs, rtol=0, atol=2e-4)


def test_fresh_network_predicts_zero_and_its_blocks_are_the_identity() -> None:
    transformer = TINY_DIT.build_transformer(num_classes=2)
    assert not transformer(*random_inputs()).any()
    tokens, conditioning = torch.randn(2, 16, 32), torch.randn(2, 32)
    for block in transformer.blocks:
        assert torch.equal(block(tokens, conditioning), tokens)


def test_fresh_weights_have_the_published_spread() -> None:
    transformer = DIT_PRESETS["dit-s-8"].build_transformer(num_classes=8)
    weights = transformer.state_dict()
    qkv = weights["blocks.0.attention.qkv.weight"]
    assert float(qkv.abs().max()) == pytest.approx(math.sqrt(6 / (384 + 3 * 384)), rel=1e-3)
    assert float(qkv.std()) == pytest.approx(math.sqrt(2 / (384 + 3 * 384)), rel=0.02)
    assert float(weights["embed_time.0.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(weights["embed_class.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert not any(layer.bias.any() for layer in transformer.modules() if isinstance(layer, nn.Linear))


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(8, num_heads=2), torch.randn(2, 5, 8)
    q, k, v = F.linear(tokens, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2.0
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    torch.testing.assert_close(attention(tokens), attention.to_out(torch.cat(heads, dim=-1)))


def test_block_commutes_with_a_permutation_of_its_tokens(transformer: ClassDit) -> None:
    block = transformer.blocks[0]
    assert isinstance(block, DitBlock)
    tokens, conditioning = torch.randn(1, 16, 32), torch.randn(1, 32)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    out = block(tokens, conditioning)
    assert not torch.allclose(out, tokens)
    torch.testing.assert_close(block(tokens[:, order], conditioning), out[:, order])


def test_prediction_depends_on_place_time_and_class(transformer: ClassDit) -> None:
    latents, timesteps, _ = random_inputs(1)
    out = transformer(latents, timesteps, torch.tensor([0]))
    assert out.shape == (1, 8, 8, 8)
    shifted = transformer(latents.roll(2, dims=3), timesteps, torch.tensor([0]))
    assert not torch.allclose(shifted, out.roll(2, dims=3), atol=1e-3)  # one patch along: the positions tell
    assert not torch.allclose(transformer(latents, timesteps - 1, torch.tensor([0])), out)
    assert not torch.allclose(transformer(latents, timesteps, torch.tensor([1])), out)
    assert not torch.allclose(transformer(latents, timesteps, torch.tensor([2])), out)  # the null class


def test_gradient_reaches_every_weight_but_the_positions(transformer: ClassDit) -> None:
    latents, timesteps, _ = random_inputs(3)
    transformer(latents, timesteps, torch.tensor([0, 1, 2])).square().sum().backward()
    without = [name for name, p in transformer.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["positions"]


def test_checkpointed_blocks_give_the_same_gradient(transformer: ClassDit) -> None:
    inputs = random_inputs()

    def gradients() -> list[Tensor]:
        transformer.zero_grad()
        transformer(*inputs).square().sum().backward()
        return [p.grad.clone() for p in transformer.parameters() if p.grad is not None]

    plain = gradients()
    transformer.enable_gradient_checkpointing()
    assert transformer.gradient_checkpointing
    for ours, theirs in zip(gradients(), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16_weights_stay_close_and_answer_in_the_dtype_asked_in(transformer: ClassDit) -> None:
    inputs = random_inputs()
    exact = transformer(*inputs).detach()
    rounded = transformer.to(torch.bfloat16)(*inputs).detach()
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.02
    assert not torch.equal(rounded, exact)


def test_saved_network_comes_back_bit_for_bit(transformer: ClassDit, tmp_path: Path) -> None:
    transformer.save_pretrained(tmp_path, safe_serialization=True)
    loaded = ClassDit.from_pretrained(tmp_path, use_safetensors=True)
    assert not loaded.positions.requires_grad
    assert loaded.embed_class.weight.requires_grad
    assert loaded.config.num_classes == 2
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(*random_inputs()), transformer(*random_inputs()))


def test_one_batch_can_be_learned_by_heart() -> None:
    torch.manual_seed(0)
    transformer = TINY_DIT.build_transformer(num_classes=2)
    latents, timesteps, class_ids = random_inputs(4)
    target = torch.randn(4, 8, 8, 8)
    optimizer = torch.optim.AdamW((p for p in transformer.parameters() if p.requires_grad), lr=5e-3)
    losses = []
    for _ in range(250):
        loss = (transformer(latents, timesteps, class_ids) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1.0, abs=0.1)  # it starts from a prediction of zero
    assert losses[-1] < 0.05


def test_latents_of_another_size_are_refused(transformer: ClassDit) -> None:
    with pytest.raises(ValueError, match=r"must be \[B, 4, 8, 8\], got \(1, 4, 16, 8\)"):
        transformer(torch.zeros(1, 4, 16, 8), torch.tensor([0]), torch.tensor([0]))


def test_shapes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of patch_size 3, got 8"):
        ClassDit(2, sample_size=8, patch_size=3)
    with pytest.raises(ValueError, match="multiple of 4 and of num_heads 5, got 384"):
        ClassDit(2, num_heads=5)
