from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from medgen_captioning.config import (
    CaptionConfig,
    Decoding,
    SimplifyConfig,
    TokenBudget,
    VisionLanguageConfig,
)
from medgen_captioning.model_files import MissingModelError, UnusableModelError
from medgen_captioning.prompts import description_request, simple_caption
from medgen_captioning.run import caption_dataset, plan_dataset
from medgen_captioning.tiny.t5 import write_tiny_t5
from medgen_captioning.tiny.teaching import teach
from medgen_captioning.tiny.vision_language import write_tiny_llava_next, write_tiny_ovis2
from medgen_captioning.vision_language import VisionLanguageModel
from medgen_data.captions import read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.images import decode_image
from medgen_data.phantoms import write_phantom_dataset
from transformers import AutoModelForImageTextToText

transformers.logging.disable_progress_bar()

GREEDY = Decoding(do_sample=False, max_new_tokens=12)
SAMPLED = Decoding(max_new_tokens=12)
ENDING = " shows a small round area with smooth pink mucosa."


def config_of(folder: Path, decoding: Decoding, **more: Any) -> VisionLanguageConfig:
    return VisionLanguageConfig(model=str(folder), dtype="float32", device="cpu", decoding=decoding, **more)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava_next(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="module")
def ovis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ovis2(tmp_path_factory.mktemp("models") / "ovis")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Twelve small phantoms. Read only."""
    return write_phantom_dataset(tmp_path_factory.mktemp("few") / "set", num_images=12, size=32, seed=5)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, few: ImageDataset) -> Path:
    """A LLaVA-NeXT that was taught by heart to answer the requests about `few`."""
    folder = write_tiny_llava_next(tmp_path_factory.mktemp("models") / "taught", width=64)
    records = list({record.label: record for record in few.records}.values())
    teach(
        folder,
        [decode_image(few.image_file(record)) for record in records],
        [description_request("endoscopic", record.label) for record in records],
        [f"{simple_caption('endoscopic', record.label)}{ENDING}" for record in records],
    )
    return folder


def questions(count: int) -> tuple[list[Any], list[str], list[int]]:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (30 + 13 * (i % 3), 40, 3), dtype=np.uint8) for i in range(count)]
    prompts = [
        description_request("endoscopic", ("polyps", "dyed lifted polyps")[i % 2]) for i in range(count)
    ]
    return images, prompts, list(range(count))


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["llava", "ovis"])
def test_the_text_of_an_image_does_not_depend_on_its_batch(
    family: str, decoding: Decoding, request: pytest.FixtureRequest
) -> None:
    model = VisionLanguageModel(config_of(request.getfixturevalue(family), decoding))
    images, prompts, seeds = questions(6)
    together = model.describe(images, prompts, [""] * 6, seeds)
    alone = [model.describe([images[i]], [prompts[i]], [""], [seeds[i]])[0] for i in range(6)]
    assert together == alone
    backwards = model.describe(images[::-1], prompts[::-1], [""] * 6, seeds[::-1])
    assert backwards[::-1] == together
    other_seeds = model.describe(images, prompts, [""] * 6, [seed + 100 for seed in seeds])
    assert (other_seeds == together) is not decoding.do_sample
    assert len(set(together)) > 1


def test_settings_saved_with_a_model_do_not_leak_into_the_drawing(llava: Path, tmp_path: Path) -> None:
    images, prompts, seeds = questions(2)
    expected = VisionLanguageModel(config_of(llava, GREEDY)).describe(images, prompts, [""] * 2, seeds)
    network = AutoModelForImageTextToText.from_pretrained(llava)
    network.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_length=3)
    network.save_pretrained(tmp_path / "other")
    for file in llava.iterdir():
        if not (tmp_path / "other" / file.name).exists():
            (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    other = VisionLanguageModel(config_of(tmp_path / "other", GREEDY))
    assert other.describe(images, prompts, [""] * 2, seeds) == expected


def test_an_answer_may_be_begun_with_the_opening(llava: Path) -> None:
    images, prompts, seeds = questions(2)
    model = VisionLanguageModel(config_of(llava, SAMPLED, prefill_opening=True))
    openings = ["An endoscopic image of polyps", "An endoscopic image of dyed lifted polyps"]
    answers = model.describe(images, prompts, openings, seeds)
    for answer, opening in zip(answers, openings, strict=True):
        assert answer.startswith(opening)
        assert len(answer) > len(opening)


def test_a_taught_model_captions_a_data_set_and_its_answers_are_kept(
    taught: Path, few: ImageDataset, tmp_path: Path
) -> None:
    config = CaptionConfig(
        method="vision-language",
        vision_language=config_of(taught, Decoding(do_sample=False, max_new_tokens=80), batch_size=5),
        budget=TokenBudget(tokenizer=str(taught), max_tokens=60),
    )
    run = caption_dataset(few, tmp_path / "a.jsonl", config)
    assert (run.num_written, run.num_asked, run.problems) == (12, 12, ())
    for record, row in zip(few.records, read_captions(tmp_path / "a.jsonl").values(), strict=True):
        assert row.text == f"An endoscopic image of {record.label}{ENDING}"
        assert (row.method, row.model) == ("vision-language", str(taught))
        assert {"opening", "no-echo", "max-tokens"} <= set(row.checks)
    (tmp_path / "a.jsonl").unlink()
    # Batches are no cause of a text, and nothing is asked again.
    section = config.vision_language
    assert section is not None
    other = config.model_copy(update={"vision_language": section.model_copy(update={"batch_size": 1})})
    assert plan_dataset(few, tmp_path / "a.jsonl", other, seed=0).num_to_ask == 0
    assert caption_dataset(few, tmp_path / "a.jsonl", other).num_asked == 0


def test_a_changed_weight_is_another_model(taught: Path, few: ImageDataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in taught.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    section = config_of(copy, Decoding(do_sample=False, max_new_tokens=80))
    config = CaptionConfig(method="vision-language", vision_language=section)
    assert caption_dataset(few, tmp_path / "a.jsonl", config).num_asked == 12
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert plan_dataset(few, tmp_path / "b.jsonl", config, seed=0).num_to_ask == 12


def test_a_model_that_babbles_is_quarantined_after_different_drafts(
    ovis: Path, few: ImageDataset, tmp_path: Path
) -> None:
    good = few.records[0]
    one = ImageDataset(few.root, few.card, (good,))
    config = CaptionConfig(method="vision-language", vision_language=config_of(ovis, SAMPLED), max_attempts=3)
    with pytest.raises(ValueError, match=r"none of 1 images could be captioned.*all 3 drafts failed"):
        caption_dataset(one, tmp_path / "a.jsonl", config)
    assert (tmp_path / "a.quarantine.jsonl").read_text().count('"seed"') == 3
    # What draws nothing at random has one attempt.
    greedy = CaptionConfig(method="vision-language", vision_language=config_of(ovis, GREEDY))
    with pytest.raises(ValueError, match="all 1 drafts failed"):
        caption_dataset(one, tmp_path / "b.jsonl", greedy)


def test_captions_over_the_budget_are_simplified_and_others_stay_word_for_word(
    taught: Path, few: ImageDataset, tmp_path: Path
) -> None:
    t5 = write_tiny_t5(tmp_path / "t5")
    section = config_of(taught, Decoding(do_sample=False, max_new_tokens=80))
    simplify = SimplifyConfig(model=str(t5), min_tokens=5, max_tokens=12)

    def config(max_tokens: int) -> CaptionConfig:
        return CaptionConfig(
            method="vision-language",
            vision_language=section,
            budget=TokenBudget(tokenizer=str(taught), max_tokens=max_tokens),
            simplify=simplify,
        )

    run = caption_dataset(few, tmp_path / "within.jsonl", config(60))
    assert run.num_written == 12
    texts = {row.text for row in read_captions(tmp_path / "within.jsonl").values()}
    assert all(text.endswith(ENDING) for text in texts)
    # A T5 with random weights keeps no opening, so what it makes of a long caption is quarantined, not cut.
    with pytest.raises(ValueError, match="none of 12 images"):
        caption_dataset(few, tmp_path / "over.jsonl", config(12))
    assert "simplified: must begin with" in (tmp_path / "over.quarantine.jsonl").read_text()


def test_what_is_no_vision_language_model_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    t5 = write_tiny_t5(tmp_path / "t5")
    with pytest.raises(UnusableModelError, match="is no vision-language model"):
        VisionLanguageModel(config_of(t5, GREEDY))
    with pytest.raises(MissingModelError, match=r"not to be had: .*give a local folder"):
        VisionLanguageModel(VisionLanguageConfig(model="nobody/nothing-here", device="cpu"))


def test_pickled_weights_and_missing_folders_are_refused(few: ImageDataset, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()

    def attempt() -> None:
        section = config_of(folder, GREEDY)
        config = CaptionConfig(method="vision-language", vision_language=section)
        plan_dataset(few, tmp_path / "a.jsonl", config, seed=0)

    with pytest.raises(
        MissingModelError, match=r"expected the folder of a transformers model, with config\.json"
    ):
        attempt()
    (folder / "config.json").write_text("{}")
    with pytest.raises(MissingModelError, match="no weights"):
        attempt()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UnusableModelError, match="pickled weights may run code"):
        attempt()
