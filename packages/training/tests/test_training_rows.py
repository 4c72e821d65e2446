from dataclasses import replace
from pathlib import Path

import pytest
import torch
from medgen_data import DataError, ImageDataset
from medgen_training import CheckpointError, MsdmTrainConfig, TextVariants, train
from medgen_training.cache import PromptTable, load_pixels
from medgen_training.training_rows import training_rows
from safetensors.torch import load_file
from torch import Tensor

Texts = dict[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def images(phantoms: ImageDataset) -> Tensor:
    return load_pixels(phantoms, 16)


@pytest.fixture(scope="module")
def mirrored(phantoms: ImageDataset) -> Texts:
    """Every second record may be mirrored."""
    return {record.record_id: (f"mirrored {record.record_id}",) for record in phantoms.records[::2]}


def drawn(prompts: PromptTable, row: int, *, dropout: float = 0.0, num: int = 4000) -> list[str]:
    rows = prompts.draw_rows(
        torch.full((num,), row, dtype=torch.long), dropout, torch.Generator().manual_seed(0)
    )
    return [prompts.prompts[drawn_row] for drawn_row in rows.tolist()]


def test_without_variants_the_rows_are_the_records(
    phantoms: ImageDataset, images: Tensor, texts: Texts
) -> None:
    rows = training_rows(phantoms, images, texts)
    assert rows.images is images
    assert rows.record_ids == tuple(record.record_id for record in phantoms.records)
    assert training_rows(phantoms, images, texts, TextVariants()) == replace(rows, images=rows.images)


def test_the_second_half_is_mirrored_where_it_may_be(
    phantoms: ImageDataset, images: Tensor, texts: Texts, mirrored: Texts
) -> None:
    rows = training_rows(phantoms, images, texts, TextVariants(mirrored=mirrored))
    num = len(images)
    assert len(rows.images) == len(rows.record_ids) == len(rows.prompts.rows_of_image) == 2 * num
    assert torch.equal(rows.images[:num], images)
    for row, record in enumerate(phantoms.records):
        again = rows.images[num + row]
        assert rows.record_ids[num + row] == record.record_id
        if record.record_id in mirrored:
            assert torch.equal(again, images[row].flip(-1))
            assert set(drawn(rows.prompts, num + row, num=50)) == set(mirrored[record.record_id])
        else:
            assert torch.equal(again, images[row])
            assert set(drawn(rows.prompts, num + row, num=200)) == set(texts[record.record_id])
        assert set(drawn(rows.prompts, row, num=200)) == set(texts[record.record_id])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_paraphrases_take_their_share_of_the_steps_with_a_text(
    phantoms: ImageDataset, images: Tensor, texts: Texts, probability: float
) -> None:
    first, second = (record.record_id for record in phantoms.records[:2])
    variants = TextVariants({first: ("one", "two")}, probability)
    prompts = training_rows(phantoms, images, texts, variants).prompts
    seen = drawn(prompts, 0)
    replaced = sum(text in ("one", "two") for text in seen) / len(seen)
    assert replaced == pytest.approx(probability, abs=0.03)
    own = [text for text in seen if text not in ("one", "two")]
    assert set(own) == (set(texts[first]) if probability < 1 else set())
    for text in texts[first] if probability < 1 else ():
        assert own.count(text) / len(own) == pytest.approx(1 / len(texts[first]), abs=0.03)
    # A record without paraphrases keeps its texts whatever the probability.
    assert set(drawn(prompts, 1)) == set(texts[second])


def test_a_dropped_context_is_never_replaced(phantoms: ImageDataset, images: Tensor, texts: Texts) -> None:
    first = phantoms.records[0].record_id
    plain = training_rows(phantoms, images, texts).prompts
    always = training_rows(phantoms, images, texts, TextVariants({first: ("other",)}, 1.0)).prompts
    before, after = drawn(plain, 0, dropout=0.25), drawn(always, 0, dropout=0.25)
    assert [text == "" for text in before] == [text == "" for text in after]
    assert set(after) == {"", "other"}


def test_mirrored_images_have_paraphrases_of_their_own(
    phantoms: ImageDataset, images: Tensor, texts: Texts
) -> None:
    first, second = (record.record_id for record in phantoms.records[:2])
    variants = TextVariants(
        {first: ("left",), second: ("plain",)}, 1.0, {first: ("mirrored",)}, {first: ("right",)}
    )
    prompts = training_rows(phantoms, images, texts, variants).prompts
    num = len(images)
    found = [set(drawn(prompts, row, num=20)) for row in (0, num, 1, num + 1)]
    assert found == [{"left"}, {"right"}, {"plain"}, {"plain"}]


def test_variants_of_another_data_set_are_refused(
    phantoms: ImageDataset, images: Tensor, texts: Texts
) -> None:
    with pytest.raises(DataError, match=r"1 records that it lacks \(first: stranger\)"):
        training_rows(phantoms, images, texts, TextVariants({"stranger": ("a",)}))
    with pytest.raises(ValueError, match=r"paraphrase_probability must be from 0 to 1, got 1\.5"):
        TextVariants(paraphrase_probability=1.5)


def test_training_with_variants_resumes_and_refuses_other_ones(
    config: MsdmTrainConfig, phantoms: ImageDataset, texts: Texts, mirrored: Texts, tmp_path: Path
) -> None:
    paraphrases = {record.record_id: ("in other words",) for record in phantoms.records}
    variants = TextVariants(paraphrases, 0.5, mirrored, dict.fromkeys(mirrored, ("mirrored in other words",)))
    plain = train(config, phantoms, texts, tmp_path / "plain", seed=3)
    model_dir = train(config, phantoms, texts, tmp_path / "varied", seed=3, variants=variants)
    again = train(config, phantoms, texts, tmp_path / "again", seed=3, variants=variants)
    weights = [load_file(d / "unet" / "diffusion_pytorch_model.safetensors") for d in (model_dir, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    cached = load_file(tmp_path / "varied" / "cache" / "latents.safetensors")["mean"]
    assert cached.shape[1] == 2 * len(phantoms.records)
    assert load_file(tmp_path / "plain" / "cache" / "latents.safetensors")["mean"].shape[1] == len(
        phantoms.records
    )
    assert plain.is_dir()
    other = replace(variants, paraphrase_probability=0.6)
    with pytest.raises(CheckpointError, match="prompts"):
        train(config, phantoms, texts, tmp_path / "varied", seed=3, resume=True, variants=other)


def test_held_out_images_stand_behind_and_have_no_paraphrases() -> None:
    table = PromptTable(("", "a", "b", "c"), ((1,), (2,)), ((3,), ()), 0.5)
    longer = table.with_images([["b", "d"], ["a", "a"]])
    assert longer.prompts == ("", "a", "b", "c", "d")
    assert longer.rows_of_image == ((1,), (2,), (2, 4), (1,))
    assert longer.paraphrase_rows_of_image == ((3,), (), (), ())
    assert PromptTable(("", "a"), ((1,),)).with_images([["a"]]).paraphrase_rows_of_image == ()
