from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_models import Conditioning, PromptEncoder
from medgen_models.adapters import PartAdapter, adapter_parameters, add_adapter
from medgen_models.loading import load_base
from medgen_models.model_source import ModelSource
from medgen_models.partial_text_encoder import (
    StatesBelow,
    blocks_below,
    blocks_of,
    resting_below,
    states_below,
    weights_below,
)
from medgen_models.protocol import ReadsPrompts
from medgen_models.tiny.flux import write_tiny_flux
from medgen_models.tiny.kandinsky3 import write_tiny_kandinsky3
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_prior
from medgen_models.tiny.pixart import write_tiny_pixart
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.sdxl import write_tiny_sdxl
from medgen_models.tiny.stable_diffusion import write_tiny_sd
from medgen_models.tiny.text_encoders import tiny_bert_encoder, tiny_clip_tokenizer, tiny_t5_encoder
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

DEPTH = 4
PROMPTS = ("", "a polyp", "two flat polyps of the colon", "a fold")
ATTENTION = {"t5": ("q", "v"), "clip": ("q_proj", "v_proj")}


def new_t5(*, uses_mask: bool = True) -> PromptEncoder:
    _, tokenizer = tiny_t5_encoder(0, max_tokens=20)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=DEPTH,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return PromptEncoder(
        random_weights(lambda: T5EncoderModel(config), 1), tokenizer, 20, uses_mask=uses_mask
    )


def new_clip(*, projects: bool = False, **options: Any) -> PromptEncoder:
    tokenizer = tiny_clip_tokenizer(max_tokens=20)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        max_position_embeddings=20,
        projection_dim=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model_class = CLIPTextModelWithProjection if projects else CLIPTextModel
    return PromptEncoder(random_weights(lambda: model_class(config), 1), tokenizer, 20, **options)


ENCODERS: dict[str, Callable[[], PromptEncoder]] = {
    "t5": new_t5,
    "t5-without-mask": lambda: new_t5(uses_mask=False),
    "clip": lambda: new_clip(uses_mask=False),
    "clip-with-mask": new_clip,
    "clip-penultimate": lambda: new_clip(uses_mask=False, states="penultimate"),
    "clip-projected-penultimate": lambda: new_clip(projects=True, uses_mask=False, states="penultimate"),
}


def adapted(name: str, num_blocks: int, dtype: torch.dtype = torch.float64) -> PromptEncoder:
    """Return an encoder with an adapter that already does something in its last blocks."""
    encoder = ENCODERS[name]()
    encoder.text_model.to(dtype)
    if num_blocks:
        targets = ATTENTION[name.partition("-")[0]]
        adapter = PartAdapter(rank=2, alpha=2, targets=targets, last_blocks=num_blocks)
        add_adapter(encoder.text_model, adapter, seed=0)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in adapter_parameters(encoder.text_model):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "pixart": write_tiny_pixart,
    "sd": write_tiny_sd,
    "sdxl": write_tiny_sdxl,
    "kandinsky22-prior": write_tiny_kandinsky22_prior,
    "kandinsky3": write_tiny_kandinsky3,
    "flux": write_tiny_flux,
}


def below_of(encoder: PromptEncoder, num_blocks: int) -> StatesBelow:
    ids, mask = encoder.tokenize(PROMPTS)
    rows = {prompt: row for row, prompt in enumerate(PROMPTS)}
    return StatesBelow(num_blocks, rows, ids, mask, encoder.states_below(ids, mask, num_blocks))


def gradients_of(encoder: PromptEncoder, encoded: Conditioning) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    total = torch.zeros((), dtype=torch.float64)
    for name, tensor in encoded.tensors().items():
        if name != "prompt_mask":
            total = total + (tensor * torch.randn(tensor.shape, generator=generator)).sum()
    found = torch.autograd.grad(total, adapter_parameters(encoder.text_model), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ENCODERS)
def test_last_blocks_from_recalled_states_give_conditions_and_gradients_of_a_whole_pass(
    name: str, attention: str, num_blocks: int
) -> None:
    encoder = adapted(name, num_blocks)
    encoder.text_model.set_attn_implementation(attention)
    prompts = [PROMPTS[row] for row in (2, 0, 2, 3)]
    whole = encoder.encode(prompts)
    whole_gradients = gradients_of(encoder, whole)
    encoder.below = below_of(encoder, num_blocks)
    partial = encoder.encode(prompts)
    assert whole.tensors().keys() == partial.tensors().keys()
    for key, tensor in whole.tensors().items():
        torch.testing.assert_close(partial.tensors()[key], tensor, rtol=0, atol=1e-12)
    assert whole.prompt_embeds.dtype == torch.float64
    assert sum(float(gradient.norm()) for gradient in whole_gradients) > 0
    for ours, theirs in zip(gradients_of(encoder, partial), whole_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_frozen_encoder_may_rest_whole(name: str) -> None:
    encoder = adapted(name, 0)
    whole = encoder.encode(PROMPTS)
    encoder.below = below_of(encoder, 0)
    torch.testing.assert_close(encoder.encode(PROMPTS).prompt_embeds, whole.prompt_embeds, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_bfloat16_encoder_recalls_its_own_bits(name: str) -> None:
    encoder = adapted(name, 1, torch.bfloat16)
    whole = encoder.encode(PROMPTS)
    encoder.below = below_of(encoder, 1)
    assert encoder.below.states.dtype == torch.bfloat16
    assert torch.equal(encoder.encode(PROMPTS).prompt_embeds, whole.prompt_embeds)


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_resting_blocks_need_no_weights_and_the_last_blocks_need_theirs(name: str) -> None:
    encoder = adapted(name, 2)
    whole = encoder.encode(PROMPTS)
    encoder.below = below_of(encoder, 2)
    for block in blocks_below(encoder.text_model, 2)[1:]:
        block.to("meta")
    torch.testing.assert_close(encoder.encode(PROMPTS).prompt_embeds, whole.prompt_embeds, rtol=0, atol=1e-12)
    blocks_of(encoder.text_model)[2].to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        encoder.encode(PROMPTS)


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_a_whole_pass_afterwards_is_as_if_nothing_had_rested_even_after_an_error(name: str) -> None:
    encoder = adapted(name, 1)
    before, modules = encoder.encode(PROMPTS), dict(encoder.text_model.named_modules())
    encoder.below = below_of(encoder, 1)
    encoder.encode(PROMPTS)

    def broken(*_: object) -> None:
        raise InterruptedError

    with resting_below(encoder.text_model, 1, encoder.below.states):
        assert dict(encoder.text_model.named_modules()) == modules  # not even meanwhile
    handle = blocks_of(encoder.text_model)[-1].register_forward_hook(broken)
    with pytest.raises(InterruptedError):
        encoder.encode(PROMPTS)
    handle.remove()
    encoder.below = None
    assert dict(encoder.text_model.named_modules()) == modules
    assert torch.equal(encoder.encode(PROMPTS).prompt_embeds, before.prompt_embeds)


def test_recalled_states_do_not_depend_on_the_batch_of_a_prompt() -> None:
    encoder = adapted("t5", 1)
    encoder.below = below_of(encoder, 1)
    prompts = [PROMPTS[row % 4] for row in range(7)]
    whole = encoder.encode(prompts, batch_size=3).prompt_embeds
    assert torch.equal(whole, encoder.encode(prompts[::-1], batch_size=3).prompt_embeds.flip(0))


def test_weights_below_are_all_but_those_of_the_last_blocks() -> None:
    text_model = adapted("t5", 1).text_model
    names = weights_below(text_model, 1).keys()
    assert not any(".block.3." in name or "lora" in name for name in names)
    assert {int(name.split(".block.")[1][0]) for name in names if ".block." in name} == {0, 1, 2}
    assert "shared.weight" in names


def test_a_prompt_that_was_not_encoded_is_refused() -> None:
    encoder = adapted("t5", 1)
    encoder.below = below_of(encoder, 1)
    with pytest.raises(ValueError, match=r"know 4 prompts, but not 'an ulcer'; .* set `below` .* None"):
        encoder.encode(["a polyp", "an ulcer"])


@pytest.mark.parametrize("num_blocks", [-1, 4, 9])
def test_an_encoder_without_blocks_below_is_refused(num_blocks: int) -> None:
    encoder = new_t5()
    ids, mask = encoder.tokenize(PROMPTS)
    with pytest.raises(
        ValueError, match=rf"last {num_blocks} of 4 blocks of T5EncoderModel .* choose 0 to 3"
    ):
        states_below(encoder.text_model, ids, mask, num_blocks)


def test_penultimate_states_need_the_last_block_to_run() -> None:
    encoder = ENCODERS["clip-penultimate"]()
    with pytest.raises(ValueError, match="let 1 block run, got 0"):
        encoder.states_below(*encoder.tokenize(PROMPTS), 0)


def test_a_network_without_known_blocks_is_refused() -> None:
    bert: nn.Module = tiny_bert_encoder(0, max_tokens=8)[0]
    with pytest.raises(ValueError, match="BertModel has no list of blocks named block or layers"):
        blocks_of(bert)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_an_adapted_text_encoder_encodes_from_recalled_states(
    family: str, tmp_path: Path
) -> None:
    model = load_base(ModelSource(str(FAMILIES[family](tmp_path / family))), family=family)
    knows_its_encoders = isinstance(model, ReadsPrompts)
    assert knows_its_encoders
    encoders = model.text_encoders()
    parts = {name: module for name, module in model.components().items() if name.startswith("text_encoder")}
    assert {name: encoder.text_model for name, encoder in encoders.items()} == parts
    for encoder in encoders.values():
        encoder.text_model.double()
    whole = model.encode_prompts(PROMPTS).tensors()
    for encoder in encoders.values():
        encoder.below = below_of(encoder, 1)
        for block in blocks_below(encoder.text_model, 1)[1:]:
            block.to("meta")
    partial = model.encode_prompts(PROMPTS).tensors()
    assert whole.keys() == partial.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(partial[name], tensor, rtol=0, atol=1e-12)
