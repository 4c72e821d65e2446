import json
from pathlib import Path

import pytest
import torch
from medgen_models import MissingModelError, load_prompt_encoder, prompt_encoder_size
from medgen_models.tiny import tiny_prompt_encoder, write_tiny_text_encoder


def test_embedding_of_a_prompt_does_not_depend_on_its_batch() -> None:
    encoder = tiny_prompt_encoder()
    prompts = [f"polyp number {i}" for i in range(7)]
    whole = encoder.encode(prompts, batch_size=3)
    assert whole.prompt_embeds.shape == (7, 16, 32)
    assert torch.equal(whole.prompt_embeds, encoder.encode(prompts[::-1], batch_size=3).prompt_embeds.flip(0))


def test_folder_round_trip_gives_the_same_states(tmp_path: Path) -> None:
    folder = write_tiny_text_encoder(tmp_path / "clip", seed=4)
    loaded = load_prompt_encoder(str(folder), max_tokens=16)
    built = tiny_prompt_encoder(4)
    prompts = ["An endoscopic image of polyps", ""]
    assert torch.equal(loaded.encode(prompts).prompt_embeds, built.encode(prompts).prompt_embeds)
    assert prompt_encoder_size(str(folder)).width == loaded.width == 32
    counted = sum(p.numel() for p in loaded.text_model.parameters())
    assert prompt_encoder_size(str(folder)).num_parameters == counted


def test_long_prompts_are_cut_and_counted_whole() -> None:
    encoder = tiny_prompt_encoder()
    (count,) = encoder.num_tokens(["polyp " * 10])
    assert count == 52  # 50 letters, begin, end
    assert encoder.encode(["polyp " * 10]).prompt_mask.sum() == 16


def test_embedded_minilm_reads_its_own_weights() -> None:
    try:
        encoder = load_prompt_encoder("minilm", max_tokens=16)
    except MissingModelError as error:
        pytest.skip(str(error))
    assert encoder.width == prompt_encoder_size("minilm").width == 384
    near, far, base = (
        encoder.encode([text]).prompt_embeds[0, :4].mean(dim=0)
        for text in ("a sessile polyp", "an invoice for tax", "a flat polyp")
    )
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(base, near, dim=0) > similarity(base, far, dim=0)


def test_absent_encoder_names_the_ways_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match=r"give a local folder that holds config\.json"):
        load_prompt_encoder(str(tmp_path / "nothing"), max_tokens=16)


def test_model_that_is_no_text_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="is of type 'vit'; expected one of bert, clip"):
        load_prompt_encoder(str(tmp_path), max_tokens=16)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_text_encoder(tmp_path / "clip")
    weights_file = folder / "model.safetensors"
    weights_file.rename(folder / "pytorch_model.bin")
    with pytest.raises(MissingModelError, match=r"no config and safetensors weights"):
        load_prompt_encoder(str(folder), max_tokens=16)


def test_known_encoder_is_counted_without_its_weights() -> None:
    size = prompt_encoder_size("openai/clip-vit-large-patch14")
    assert (size.width, size.num_parameters) == (768, 123_060_480)
