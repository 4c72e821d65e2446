import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.config import Decoding, ServerConfig
from medgen_captioning.language_model import (
    JSON_OPENING,
    LanguageModelConfig,
    LanguageModelParaphraser,
    TextModelConfig,
    parse_paraphrases,
)
from medgen_captioning.model_files import MissingModelError, UnusableModelError
from medgen_captioning.paraphrasing.judge import judge_all
from medgen_captioning.text_model import TextModel
from medgen_captioning.tiny.server import FAULTS, TinyServer, tiny_server
from medgen_captioning.tiny.t5 import write_tiny_t5
from medgen_captioning.tiny.text_model import write_tiny_llama
from medgen_data.problems import DataError
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

POLYPS = "Generate an image with no polyps."
ONE = "Generate an image with 1 finding."
ANSWERS = {
    POLYPS: ["Create an image showing no polyps.", "Produce an image with 2 polyps."],
    ONE: ["Create an image with 1 finding."],
}
INSTRUCTION = "Rephrase: {prompt}"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CaptionCache]:
    with CaptionCache(tmp_path / "cache.sqlite") as opened:
        yield opened


def answer_of(body: dict[str, Any]) -> str:
    prompt = body["messages"][0]["content"][0]["text"].partition("Sentence: ")[2]
    return json.dumps({"paraphrases": ANSWERS[prompt]})


def of_server(server: TinyServer, **more: Any) -> LanguageModelConfig:
    quick = ServerConfig(base_url=server.base_url, model="tiny", timeout_s=0.5, backoff_s=0.01)
    return LanguageModelConfig(server=quick, **more)


def test_candidates_of_a_server_are_judged_and_kept(cache: CaptionCache) -> None:
    with tiny_server(answer=answer_of, keep_bodies=True) as server:
        config = of_server(server, max_attempts=2)
        paraphraser = LanguageModelParaphraser(config, cache)
        assert paraphraser.attempts_left([POLYPS, ONE], 1, 0) == 4
        judged = judge_all(paraphraser, [POLYPS, ONE], 1, seed=0)
        assert judged.accepted == (
            ("Create an image showing no polyps.",),
            ("Create an image with 1 finding.",),
        )
        assert judged.rejections[0].paraphrase == "Produce an image with 2 polyps."
        schema = server.bodies[0]["response_format"]["json_schema"]
        assert schema["strict"]
        assert schema["schema"]["required"] == ["paraphrases"]
        assert (paraphraser.num_asked, server.num_requests) == (2, 2)
        again = LanguageModelParaphraser(config, cache)
        assert again.attempts_left([POLYPS, ONE], 1, 0) == 0
        assert again([POLYPS, ONE], 1, 0) == [ANSWERS[POLYPS], ANSWERS[ONE]]
        assert (again.num_asked, server.num_requests) == (0, 2)
        # Too few of them are faithful: asked again with another seed, up to the cap, and what came is returned.
        assert again([POLYPS], 2, 0) == [ANSWERS[POLYPS]]
        assert server.num_requests == 3
        assert len({body["seed"] for body in server.bodies}) == 2


def test_trouble_of_a_server_changes_nothing(cache: CaptionCache) -> None:
    with tiny_server(
        answer=answer_of, fault=lambda number: FAULTS[number] if number < len(FAULTS) else None
    ) as server:
        assert LanguageModelParaphraser(of_server(server), cache)([ONE], 1, 0) == [ANSWERS[ONE]]
        assert server.num_requests == len(FAULTS) + 1


def test_an_answer_that_is_no_list_of_sentences_is_a_failure_with_its_reason(cache: CaptionCache) -> None:
    with tiny_server(answer=lambda _: "I would rather not.") as server:
        paraphraser = LanguageModelParaphraser(of_server(server, max_attempts=3), cache)
        assert paraphraser([ONE], 1, 0) == [[]]
        assert server.num_requests == 3
        assert "must be a JSON object" in paraphraser.failures[ONE]
    with tiny_server(fault=lambda _: "wrong-key") as server:
        paraphraser = LanguageModelParaphraser(of_server(server), cache)
        assert paraphraser([ONE, POLYPS], 1, 0) == [[], []]
        assert "check the key" in paraphraser.failures[POLYPS]


def test_prompts_stay_on_this_machine_unless_the_host_is_allowed(cache: CaptionCache) -> None:
    config = LanguageModelConfig(server=ServerConfig(base_url="https://api.example.org/v1", model="m"))
    with pytest.raises(DataError, match=r"api\.example\.org, which is not this machine"):
        LanguageModelParaphraser(config, cache)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('{"paraphrases": ["a b", "c"]}', ["a b", "c"]),
        ('```json\n{"paraphrases": ["a\\n  b", " "]}\n```', ["a b"]),
        ('{"paraphrases": []}', []),
    ],
)
def test_sentences_are_found_in_an_answer(text: str, sentences: list[str]) -> None:
    assert parse_paraphrases(text) == sentences


@pytest.mark.parametrize(
    "text", ["", "no", "[1]", '{"paraphrases": "a"}', '{"paraphrases": [1]}', '{"paraphrases": ["a"', "}{"]
)
def test_what_is_no_such_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a JSON object"):
        parse_paraphrases(text)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that was taught by heart to answer two prompts."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("models") / "llama", width=64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder).train()
    starts = [f"{INSTRUCTION.format(prompt=prompt)}\n{JSON_OPENING}" for prompt in ANSWERS]
    ends = [json.dumps({"paraphrases": texts})[len(JSON_OPENING) :] for texts in ANSWERS.values()]
    rows = [
        (tokenizer(start)["input_ids"], tokenizer(f"{end}</s>")["input_ids"])
        for start, end in zip(starts, ends, strict=True)
    ]
    length = max(len(start) + len(end) for start, end in rows)
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (length - len(s) - len(e)) + s + e for s, e in rows])
    labels = torch.tensor([[-100] * (length - len(e)) + e for s, e in rows])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(1000):
        loss = network(input_ids=tokens, attention_mask=(tokens != pad).long(), labels=labels).loss
        if loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02, f"the miniature did not learn its answers: loss {loss:.2f}"
    network.save_pretrained(folder)
    return folder


def local(
    folder: Path, *, do_sample: bool = False, batch_size: int = 2, max_new_tokens: int = 150
) -> LanguageModelConfig:
    decoding = Decoding(do_sample=do_sample, max_new_tokens=max_new_tokens)
    model = TextModelConfig(
        model=str(folder), dtype="float32", device="cpu", batch_size=batch_size, decoding=decoding
    )
    return LanguageModelConfig(text_model=model, instruction=INSTRUCTION)


def test_a_model_in_this_process_writes_candidates(taught: Path, cache: CaptionCache) -> None:
    paraphraser = LanguageModelParaphraser(local(taught), cache)
    progress: list[tuple[int, int]] = []
    paraphraser._on_prompt = lambda done, total: progress.append((done, total))
    judged = judge_all(paraphraser, [POLYPS, ONE], 1, seed=0)
    assert judged.accepted == (("Create an image showing no polyps.",), ("Create an image with 1 finding.",))
    assert (paraphraser.num_asked, progress) == (2, [(1, 2), (2, 2)])
    again = LanguageModelParaphraser(local(taught, batch_size=1), cache)
    assert again([ONE, POLYPS], 1, 5) == [ANSWERS[ONE], ANSWERS[POLYPS]]
    assert again.num_asked == 0


def test_the_text_of_a_prompt_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    section = local(write_tiny_llama(tmp_path / "llama"), do_sample=True, max_new_tokens=12).text_model
    assert section is not None
    model = TextModel(section)
    prompts = ["An image", "Please describe the polyps", "the red area"]
    together = model.answer(prompts, [1, 2, 3], "{")
    assert together == [model.answer([p], [s], "{")[0] for p, s in zip(prompts, (1, 2, 3), strict=True)]
    assert model.answer(prompts, [4, 5, 6], "{") != together


def test_what_is_no_language_model_is_refused_by_name(tmp_path: Path, cache: CaptionCache) -> None:
    t5 = local(write_tiny_t5(tmp_path / "t5")).text_model
    assert t5 is not None
    with pytest.raises(UnusableModelError, match="is no language model"):
        TextModel(t5)
    with pytest.raises(MissingModelError, match="expected the folder of a transformers model"):
        LanguageModelParaphraser(local(tmp_path), cache)


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="one of the two"):
        LanguageModelConfig()
    with pytest.raises(ValidationError, match=r"must hold \{prompt\}"):
        LanguageModelConfig(text_model=TextModelConfig(model="m"), instruction="Say {what}")
