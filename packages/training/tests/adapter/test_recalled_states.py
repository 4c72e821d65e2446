import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_models import Conditioning, PromptEncoder
from medgen_models.adapters import PartAdapter, adapter_parameters, add_adapter, is_adapted
from medgen_models.base_models import load_pretrained
from medgen_models.partial_text_encoder import blocks_of
from medgen_models.tiny.random_weights import random_weights
from medgen_models.tiny.text_encoders import tiny_t5_encoder
from medgen_training import AdapterTrainConfig, train
from medgen_training.adapter.batches import LivePrompts, condition_source, latent_source
from medgen_training.adapter.draws import Turns
from medgen_training.adapter.losses import AdapterData, draw_losses
from medgen_training.adapter.run import base_facts, prepare_model
from medgen_training.adapter.trainer import add_colour_gradients
from medgen_training.cache import build_prompt_table, load_pixels, recalled_states
from medgen_training.colour_statistics import colour_table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import T5Config, T5EncoderModel

LAST_BLOCK = {"rank": 4, "text_encoder": True, "text_encoder_blocks": 1}
HLDF = {"every_steps": 1, "num_inference_steps": 2}
Texts = dict[str, tuple[str, ...]]


class Training:
    """A model in float64 whose adapters already do something, and what it is trained on."""

    def __init__(
        self, config: AdapterTrainConfig, dataset: ImageDataset, texts: Texts, cache_dir: Path
    ) -> None:
        self.config = config
        self.model = load_pretrained(base_facts(config))
        prepare_model(self.model, config, seed=0)
        modules = self.model.components().values()
        for module in modules:
            module.double()
        self.parameters = [
            parameter for module in modules if is_adapted(module) for parameter in adapter_parameters(module)
        ]
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        images, prompts = load_pixels(dataset, self.model.image_size), build_prompt_table(dataset, texts)
        self.data = AdapterData(
            latents=latent_source(self.model, images, cache_dir, cache=True),
            conditions=condition_source(
                self.model, images, prompts, cache_dir, cache=True, text_encoder_learns=True
            ),
            prompts=prompts,
            colours=colour_table(images),
            record_ids=[record.record_id for record in dataset.records],
        )

    def conditions(self) -> Conditioning:
        return self.data.conditions(torch.tensor([3, 1, 5]), torch.tensor([2, 0, 4]))

    def losses(self) -> Tensor:
        turns = Turns(torch.tensor([4, 0, 9]), [7, 8, 9])
        return draw_losses(self.model, self.data, self.config, turns, seed=1)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the losses, and of the colour loss if there is one."""
        for parameter in self.parameters:
            parameter.grad = None
        torch.autograd.backward(self.losses().mean())
        if self.config.hldf is not None:
            turns = Turns(torch.tensor([4, 0]), [7, 8])
            add_colour_gradients(self.model, self.data, self.config, turns, self.parameters, seed=1)
        # Where nothing is conditioned on a weight, there is no gradient.
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let every block of the text encoders run."""
        encoders = self.model.text_encoders().values()
        kept = [encoder.below for encoder in encoders]
        for encoder in encoders:
            encoder.below = None
        yield
        for encoder, below in zip(encoders, kept, strict=True):
            encoder.below = below


@pytest.fixture
def new_training(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> Callable[..., Training]:
    def new(family: str, **changes: Any) -> Training:
        config = new_config(family, **({"adapter": LAST_BLOCK} | changes))
        return Training(config, phantoms, texts, tmp_path / "cache")

    return new


@pytest.mark.parametrize("hldf", [None, HLDF], ids=["plain", "hldf"])
@pytest.mark.parametrize("family", ["pixart", "sd", "sdxl", "flux"])
def test_conditions_losses_and_gradients_are_those_of_whole_text_encoders(
    new_training: Callable[..., Training], family: str, hldf: dict[str, Any] | None
) -> None:
    training = new_training(family, hldf=hldf)
    assert all(encoder.below is not None for encoder in training.model.text_encoders().values())
    ours = training.conditions().tensors(), training.losses().detach(), training.gradients()
    with training.whole():
        theirs = training.conditions().tensors(), training.losses().detach(), training.gradients()
    for name, tensor in theirs[0].items():
        torch.testing.assert_close(ours[0][name], tensor, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in theirs[2])
    assert largest > 0
    for our_gradient, their_gradient in zip(ours[2], theirs[2], strict=True):
        assert float((our_gradient - their_gradient).abs().max()) <= 1e-6 * largest


@pytest.mark.parametrize("family", ["pixart", "sdxl"])
def test_adapters_of_text_encoders_learn_from_both_losses(
    new_training: Callable[..., Training], family: str
) -> None:
    training = new_training(family, hldf=HLDF)
    training.gradients()
    of_text = [
        parameter
        for name, module in training.model.components().items()
        if name.startswith("text_encoder")
        for parameter in adapter_parameters(module)
    ]
    # The first encoder of SDXL is read before its last block: an adapter there has nothing to learn.
    learning = [parameter for parameter in of_text if parameter.grad is not None and parameter.grad.any()]
    assert len(learning) == (len(of_text) if family == "pixart" else len(of_text) // 2)


class CountOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that compute something; views are free."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        self.count += not any(
            each.alias_info is not None and not each.alias_info.is_write for each in returns
        )
        return func(*args, **(kwargs or {}))


def num_operators(call: Callable[[], object]) -> int:
    with CountOperators() as counter:  # type: ignore[no-untyped-call]
        call()
    return int(counter.count)


@pytest.mark.parametrize("family", ["pixart", "sd"])
def test_a_step_saves_the_forward_pass_of_the_blocks_below(
    new_training: Callable[..., Training], family: str
) -> None:
    training = new_training(family)
    (encoder,) = training.model.text_encoders().values()
    texts = list(training.data.prompts.prompts[1:4])
    training.gradients()  # what is made once is made
    with training.whole():
        whole_step = num_operators(training.gradients)
        whole_pass = num_operators(lambda: encoder.encode(texts))
    saved = whole_pass - num_operators(lambda: encoder.encode(texts))
    block_below = blocks_of(encoder.text_model)[0]
    assert saved > sum(isinstance(layer, torch.nn.Linear) for layer in block_below.modules()) >= 6
    assert whole_step - num_operators(training.gradients) == saved


def test_frozen_encoder_beside_a_learning_one_rests_whole(new_training: Callable[..., Training]) -> None:
    training = new_training("flux", adapter={"text_encoder": True})
    encoders = training.model.text_encoders()
    assert encoders["text_encoder"].below is None  # every block of CLIP learns
    assert encoders["text_encoder_2"].below.num_blocks == 0
    ours = training.conditions().tensors()
    with training.whole():
        theirs = training.conditions().tensors()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_blocks", [None, 2])
def test_encoders_that_learn_in_every_block_run_whole(
    new_training: Callable[..., Training], num_blocks: int | None, tmp_path: Path
) -> None:
    training = new_training("sdxl", adapter=LAST_BLOCK | {"text_encoder_blocks": num_blocks})
    assert isinstance(training.data.conditions, LivePrompts)
    assert all(encoder.below is None for encoder in training.model.text_encoders().values())
    assert not (tmp_path / "cache" / "text_states.json").exists()


def test_dropout_of_a_text_encoder_keeps_all_blocks_running_and_says_so(
    new_training: Callable[..., Training], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="medgen_training"):
        training = new_training("pixart", text_encoder_dropout=True)
    assert training.model.prompt_encoder.below is None
    assert "text_encoder: all blocks run at every step, because dropout" in caplog.text
    assert "only the last 1 of 2 run" in caplog.text


def test_without_cache_every_block_runs(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config(adapter=LAST_BLOCK, cache=False))
    assert prepared.model.prompt_encoder.below is None


def four_blocks(seed: int = 0, *, num_blocks: int, max_tokens: int = 16) -> PromptEncoder:
    """Return a T5 of four blocks with an adapter in the last ones."""
    _, tokenizer = tiny_t5_encoder(0, max_tokens=max_tokens)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=4, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    encoder = PromptEncoder(random_weights(lambda: T5EncoderModel(config), seed), tokenizer, max_tokens)
    adapter = PartAdapter(rank=2, alpha=2, targets=("q", "v"), last_blocks=num_blocks)
    add_adapter(encoder.text_model, adapter, seed=seed)
    return encoder


@pytest.mark.parametrize(
    "change", ["nothing", "adapter", "blocks", "prompt", "order", "weights", "length", "damage"]
)
def test_states_of_something_else_are_computed_anew(tmp_path: Path, change: str) -> None:
    prompts, num_blocks = ["", "a polyp", "a fold"], 1
    encoder = four_blocks(num_blocks=num_blocks)
    recalled_states({"text_encoder": encoder}, prompts, {"text_encoder": num_blocks}, tmp_path)
    recorded = json.loads((tmp_path / "text_states.json").read_text())
    (tmp_path / "text_states.safetensors").touch()
    written = (tmp_path / "text_states.safetensors").stat().st_mtime_ns
    match change:
        case "adapter":
            with torch.no_grad():
                for parameter in adapter_parameters(encoder.text_model):
                    parameter.fill_(0.5)
        case "blocks":
            num_blocks = 2
            encoder = four_blocks(num_blocks=2)
        case "prompt":
            prompts = ["", "a polyp", "an ulcer"]
        case "order":
            prompts = prompts[::-1]
        case "weights":
            encoder = four_blocks(seed=1, num_blocks=1)
        case "length":
            encoder = four_blocks(num_blocks=1, max_tokens=20)
        case "damage":
            content = bytearray((tmp_path / "text_states.safetensors").read_bytes())
            content[-1] ^= 1
            (tmp_path / "text_states.safetensors").write_bytes(content)
    whole = encoder.encode(prompts).prompt_embeds
    found = recalled_states({"text_encoder": encoder}, prompts, {"text_encoder": num_blocks}, tmp_path)
    encoder.below = found["text_encoder"]
    torch.testing.assert_close(encoder.encode(prompts).prompt_embeds, whole)
    now = json.loads((tmp_path / "text_states.json").read_text())
    assert (now == recorded) == (change in {"nothing", "adapter", "damage"})
    kept = (tmp_path / "text_states.safetensors").stat().st_mtime_ns == written
    assert kept == (change in {"nothing", "adapter"})


def test_training_of_the_last_block_has_the_losses_of_whole_encoders(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    losses = {}
    for cache in (True, False):
        run = tmp_path / f"cache-{cache}"
        train(new_config(adapter=LAST_BLOCK, hldf=HLDF, cache=cache), phantoms, texts, run, seed=0)
        rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
        losses[cache] = [value for row in rows for value in (row["loss"], row["colour_loss"])]
        assert (run / "cache" / "text_states.safetensors").is_file() == cache
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
