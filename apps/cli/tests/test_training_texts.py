"""Paraphrases and mirrored captions on their way into training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_captioning.clinical_facts import accepts, facts_of
from medgen_captioning.flips import flip_caption, mirror_facts
from medgen_captioning.paraphrasing import ParaphraseConfig, ParaphraseRow
from medgen_cli.stages.training_texts import texts_to_train_on
from medgen_data.image_folder import ImageDataset, read_image_folder
from medgen_data.phantoms import write_phantom_dataset
from medgen_data.problems import DataError
from safetensors.torch import load_file

Call = Callable[..., Any]
LEFT = "A polyp in the upper-left."
TINY = (
    "train:\n"
    "  preset: msdm-tiny\n"
    "  autoencoder: {num_steps: 2, batch_size: 2, log_every: 1}\n"
    "  denoiser: {num_steps: 2, batch_size: 2, log_every: 1}\n"
)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return write_phantom_dataset(tmp_path_factory.mktemp("phantoms") / "set", num_images=16, size=64, seed=1)


@pytest.fixture
def two(phantoms: ImageDataset) -> tuple[str, str]:
    """The ids of two records."""
    return phantoms.records[0].record_id, phantoms.records[1].record_id


def texts_of(phantoms: ImageDataset, **some: str) -> dict[str, tuple[str, ...]]:
    return {record.record_id: (some.get(record.record_id, "A tube."),) for record in phantoms.records}


@pytest.mark.parametrize(
    ("config", "texts", "at_random"),
    [
        (ParaphraseConfig(), (LEFT,), ()),
        (ParaphraseConfig(strategy="add"), (LEFT, "one", "two"), ()),
        (ParaphraseConfig(strategy="replace_all"), ("one", "two"), ()),
        (ParaphraseConfig(strategy="replace_random", probability=0.3), (LEFT,), ("one", "two")),
    ],
)
def test_strategies_mix_texts_as_the_papers_do(
    phantoms: ImageDataset,
    two: tuple[str, str],
    config: ParaphraseConfig,
    texts: tuple[str, ...],
    at_random: tuple[str, ...],
) -> None:
    first, second = two
    rows = [ParaphraseRow(first, LEFT, "one"), ParaphraseRow(first, LEFT, "two")]
    mixed = texts_to_train_on(phantoms, texts_of(phantoms, **{first: LEFT}), rows=rows, config=config)
    assert mixed.texts[first] == texts
    assert mixed.paraphrases.get(first, ()) == at_random
    assert mixed.texts[second] == ("A tube.",)
    assert (mixed.variants() is None) == (config.strategy != "replace_random")
    assert mixed.probability == (config.probability or 0)


def test_images_are_named_by_record_or_by_file(phantoms: ImageDataset) -> None:
    record = phantoms.records[0]
    names = (record.record_id, record.file_name, Path(record.file_name).name, Path(record.file_name).stem)
    for name in names:
        rows = [ParaphraseRow(name, "A tube.", "One tube.")]
        mixed = texts_to_train_on(
            phantoms, texts_of(phantoms), rows=rows, config=ParaphraseConfig(strategy="add")
        )
        assert mixed.texts[record.record_id] == ("A tube.", "One tube.")


def test_paraphrases_of_another_data_set_are_refused(phantoms: ImageDataset) -> None:
    rows = [ParaphraseRow("strange.jpg", "A tube.", "One tube.")]
    with pytest.raises(DataError, match=r"none of 1 paraphrases .* the first names strange\.jpg"):
        texts_to_train_on(phantoms, texts_of(phantoms), rows=rows, config=ParaphraseConfig(strategy="add"))


def test_mirrored_texts_state_the_mirrored_facts(phantoms: ImageDataset) -> None:
    texts = {record.record_id: record.text for record in phantoms.records}
    mixed = texts_to_train_on(phantoms, texts, flips=True)
    assert mixed.mirrored is not None
    assert mixed.mirrored.keys() == texts.keys()
    for name, own in texts.items():
        for text, mirrored in zip(own, mixed.mirrored[name], strict=True):
            assert facts_of(mirrored) == mirror_facts(facts_of(text), "horizontal")
    assert any(mixed.mirrored[name] != own for name, own in texts.items())


def test_an_image_that_names_a_side_of_the_body_is_not_mirrored(
    phantoms: ImageDataset, two: tuple[str, str]
) -> None:
    first, second = two
    lung = "Chest radiograph with a left pleural effusion."
    rows = [ParaphraseRow(first, LEFT, "In the upper left, a polyp."), ParaphraseRow(first, LEFT, lung)]
    mixed = texts_to_train_on(
        phantoms,
        texts_of(phantoms, **{first: LEFT, second: lung}),
        rows=rows,
        config=ParaphraseConfig(strategy="add"),
        flips=True,
    )
    assert mixed.mirrored is not None
    # A paraphrase that cannot follow its image is left out, the image's own texts decide.
    assert mixed.mirrored[first] == ("A polyp in the upper-right.", "In the upper right, a polyp.")
    assert second not in mixed.mirrored
    assert "side of the body (left lung)" in mixed.not_mirrored[second]


def test_an_image_is_not_mirrored_without_a_text_that_follows(
    phantoms: ImageDataset, two: tuple[str, str]
) -> None:
    first, _ = two
    rows = [ParaphraseRow(first, LEFT, "Chest radiograph with a left pleural effusion.")]
    replaced = ParaphraseConfig(strategy="replace_all")
    texts = texts_of(phantoms, **{first: LEFT})
    mixed = texts_to_train_on(phantoms, texts, rows=rows, config=replaced, flips=True)
    assert mixed.mirrored is not None
    assert first not in mixed.mirrored
    assert mixed.not_mirrored[first] == "none of its paraphrases can follow"


def test_an_image_with_writing_in_it_is_not_mirrored(phantoms: ImageDataset, two: tuple[str, str]) -> None:
    first, second = two
    some = {first: "Generate an image containing text.", second: "Generate an image not containing text."}
    mixed = texts_to_train_on(phantoms, texts_of(phantoms, **some), flips=True)
    assert mixed.mirrored is not None
    assert first not in mixed.mirrored
    assert "would be mirrored too" in mixed.not_mirrored[first]
    assert mixed.mirrored[second] == (some[second],)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(
        "name: varied\nseed: 1\ndata: {kind: phantoms, num_images: 16, size: 64, test_fraction: 0.25}\n"
        "caption: {method: simple, flips: true}\n"
        "paraphrase: {strategy: replace_random, probability: 0.5}\n"
        f"{TINY}"
        "sample: {num_inference_steps: 2, batch_size: 4, num_images: 4}\n"
        "score: {metrics: [frechet], extractor: 'random:0', batch_size: 4}\n",
        encoding="utf-8",
    )
    return file


def test_a_whole_run_trains_on_paraphrases_and_mirrored_images(
    medgen: Call, tmp_path: Path, recipe: Path
) -> None:
    run_dir = tmp_path / "run"
    ran = medgen("run", recipe, "--out", run_dir, "--device", "cpu")
    assert ran.exit_code == 0, ran.stderr
    dataset = read_image_folder(run_dir / "data" / "dataset").select(split="train")
    rows = [json.loads(line) for line in (run_dir / "train" / "texts.jsonl").read_text().splitlines()]
    assert [row["record_id"] for row in rows] == [record.record_id for record in dataset.records]
    for row, record in zip(rows, dataset.records, strict=True):
        assert row["not_mirrored"] is None
        assert set(record.text) <= set(row["texts"])
        assert row["mirrored"] == [flip_caption(text) for text in row["texts"]]
        assert row["mirrored_paraphrases"] == [flip_caption(text) for text in row["paraphrases"]]
        for paraphrase in row["paraphrases"]:
            assert any(accepts(text, paraphrase).accepted for text in row["texts"])
    latents = load_file(run_dir / "train" / "cache" / "latents.safetensors")["mean"]
    assert latents.shape[1] == 2 * len(dataset.records)
    again = medgen("run", recipe, "--out", run_dir, "--device", "cpu")
    assert again.stderr.count("finished already, nothing changed") >= 5


def test_training_reads_a_table_of_paraphrases(medgen: Call, tmp_path: Path, phantoms: ImageDataset) -> None:
    table, out = tmp_path / "p.csv", tmp_path / "train"
    assert medgen("paraphrase", phantoms.root, "--out", table).exit_code == 0
    config = tmp_path / "recipe.yaml"
    config.write_text(TINY, encoding="utf-8")
    flags = ["--config", config, "--device", "cpu", "--set", "caption.flips=true"]
    ran = medgen("train", "--data", phantoms.root, "--paraphrases", table, "--out", out, *flags)
    assert ran.exit_code == 0, ran.stderr
    rows = [json.loads(line) for line in (out / "texts.jsonl").read_text().splitlines()]
    trained = [record for record in phantoms.records if record.split == "train"]
    assert len(rows) == len(trained)
    for row, record in zip(rows, trained, strict=True):
        # Strategy add: the prompts stay, and each has its paraphrase beside it.
        assert row["texts"][: len(record.text)] == list(record.text)
        assert len(row["texts"]) > len(record.text)
        assert len(row["mirrored"]) == len(row["texts"])


def test_a_strategy_without_paraphrases_is_refused(
    medgen: Call, tmp_path: Path, phantoms: ImageDataset, one_clear_error: Call
) -> None:
    flags = ["--set", "paraphrase.strategy=add", "--out", tmp_path / "t", "--device", "cpu"]
    message = one_clear_error(medgen("train", "--data", phantoms.root, *flags), 2)
    assert "give --paraphrases FILE" in message


def test_a_plan_counts_mirrored_images(medgen: Call, recipe: Path) -> None:
    plain = medgen("train", recipe, "--dry-run", "--json", "--set", "caption.flips=false")
    mirrored = medgen("train", recipe, "--dry-run", "--json")
    counts = [json.loads(ran.stdout)["cache_bytes"] for ran in (plain, mirrored)]
    assert counts[1] == 2 * counts[0] > 0
