"""An attacker who is a rater, or several together, and tries to name the models from what the server sends."""

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medgen_review.schedule import pages_for
from medgen_review.store import RatingStore
from medgen_review.study import Study, StudyImage, digest_of
from PIL import Image
from scipy.stats import kruskal

MODELS = ("flux-tuned", "kandinsky-lora", "msdm-512")
NUM_RATERS = 6
IMAGE = re.compile(r'src="/image/([^"]*)"')
# Drawn or keyed names, which hold any short word of hexadecimal digits by chance.
KEYED = re.compile(
    r'(?<=data-rater=")[0-9a-f]{16}(?=")|(?<=data-csrf=")[0-9a-f]+(?=")|(?<=name="csrf" value=")[0-9a-f]+(?=")'
    r'|(?<=name="action" value=")[0-9a-f]{32}(?=")|(?<=/image/)[0-9a-f]{32}(?=")'
)
GRID = re.compile(r'<ul class="images" data-set="([^"]*)".*?</ul>', re.DOTALL)


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, write_study: Callable[..., Study], studio_of: Any
) -> Iterator[Any]:
    """All that six raters get: pages, headers, and images by set."""
    folder = tmp_path_factory.mktemp("blind")
    study = write_study(folder, num_prompts=6, models=MODELS, images_per_set=3, num_repeats=1)
    with RatingStore.open(folder / "ratings.sqlite", study) as store:
        yield collected(studio_of(study, store, folder))


def collected(at_work: Any) -> Any:
    """Return the studio, its pages by rater and number, and (rater, page, model, name, answer) of every image."""
    clients = [at_work.browser(at_work.store.enrol(f"rater {number}").token) for number in range(NUM_RATERS)]
    pages = {}
    images = []
    for number, client in enumerate(clients):
        for page in pages_for(at_work.study, number):
            answer = client.get(f"/page/{page.number + 1}")
            pages[number, page.number] = answer
            for grid in GRID.finditer(answer.text):
                letter = grid[1].removeprefix("Set ")
                model = "real" if grid[1] == "Real images" else page.model_of(letter)
                images += [
                    (number, page.number, model, name, client.get(f"/image/{name}"))
                    for name in IMAGE.findall(grid[0])
                ]
    return at_work, pages, images


def test_nothing_that_is_sent_holds_a_models_name_a_file_name_a_path_or_a_hash(seen: Any) -> None:
    at_work, pages, images = seen
    study = at_work.study
    words = [
        *MODELS,
        *(part for model in MODELS for part in model.split("-")),
        str(at_work.folder),
        study.digest,
    ]
    words += [prompt.prompt_id for prompt in study.prompts]
    for each in (*study.references, *study.sets):
        for image in each.images:
            words += [image.file, image.file.rpartition("/")[2], image.sha256, image.sha256[:8]]
    words = sorted({word.lower() for word in words})
    assert len(words) > 100
    for answer in pages.values():
        text = KEYED.sub("", f"{answer.text}\n{answer.headers}\n{answer.url}").lower()
        assert not re.search("[0-9a-f]{16}", text)  # nothing else that could be a hash
        assert [word for word in words if word in text] == []
    for _, _, _, _, answer in images:
        text = f"{answer.headers}".lower()
        assert [word for word in words if word in text] == []
        assert not [word for word in MODELS if word.encode() in answer.content]


def test_every_image_is_answered_in_the_same_form(seen: Any) -> None:
    _, _, images = seen
    headers = {
        tuple(sorted((k, v) for k, v in answer.headers.items() if k != "date")) for *_, answer in images
    }
    assert len(headers) == 1
    names = {name for name, _ in next(iter(headers))}
    assert not names & {"etag", "last-modified", "content-disposition", "accept-ranges", "server"}
    assert len({len(answer.content) for *_, answer in images}) == 1
    assert {re.sub("[0-9a-f]", "x", name) for _, _, _, name, _ in images} == {"x" * 32}
    chunks = {
        tuple(re.findall(rb"IHDR|IDAT|IEND|tEXt|iTXt|zTXt|eXIf|iCCP|pHYs|tIME|caBX|gAMA", a.content))
        for *_, a in images
    }
    assert chunks == {(b"IHDR", b"IDAT", b"IEND")}


def test_no_image_name_comes_twice_so_no_two_showings_can_be_linked(seen: Any) -> None:
    _, _, images = seen
    names = [name for _, _, _, name, _ in images]
    assert len(names) == NUM_RATERS * 7 * 4 * 3
    assert len(set(names)) == len(names)
    # Nor do they share more than chance: first halves of 128 random bits never meet.
    assert len({name[:16] for name in names}) == len(names)


def test_names_are_in_no_order_that_follows_the_models(seen: Any) -> None:
    _, _, images = seen
    by_model = defaultdict(list)
    for _, _, model, name, _ in images:
        by_model[model].append(int(name, 16) / 2**128)
    assert kruskal(*by_model.values()).pvalue > 0.001


def test_a_page_is_as_long_as_every_other_raters_page_at_its_place(seen: Any) -> None:
    _, pages, _ = seen
    lengths = defaultdict(set)
    for (_, place), answer in pages.items():  # all prompts of this study are equally long
        lengths[place].add(len(answer.text))
    assert [len(each) for each in lengths.values()] == [1] * 7


def test_the_pages_of_two_orders_of_the_models_are_the_same_but_for_names_of_images(seen: Any) -> None:
    at_work, pages, _ = seen
    keyed = re.compile(r"[0-9a-f]{16,32}")
    by_prompt = defaultdict(list)
    for (number, place), answer in pages.items():
        page = pages_for(at_work.study, number)[place]
        text = keyed.sub("", answer.text)
        for words in (
            rf"\b{place + 1}-(?=[A-Cr])",
            rf"/page/{place + 1}\b",
            rf"Page {place + 1} of",
            rf">{place + 1}\. ",
        ):
            text = re.sub(words, "", text)
        if 0 < place < 6:
            by_prompt[page.prompt_id].append((page.order, text))
    compared = 0
    for showings in by_prompt.values():
        for (order, text), (other_order, other) in combinations(showings, 2):
            assert text == other
            compared += order != other_order
    assert compared > 20


def test_letters_place_and_number_of_a_page_tell_nothing_about_the_model(
    make_study: Callable[..., Study],
) -> None:
    study = make_study(num_prompts=12, models=MODELS)
    counts = np.zeros((3, 3), dtype=int)
    guesses: Any = defaultdict(lambda: defaultdict(int))
    hits = 0
    showings = [(rater, page) for rater in range(24) for page in pages_for(study, rater)]
    for _, page in showings:
        for letter, model in zip("ABC", page.order, strict=True):
            counts["ABC".index(letter), MODELS.index(model)] += 1
            guesses[letter, page.number][model] += 1
    assert (counts == counts[0, 0]).all()
    # Leave one rater out: what stood at this letter and page number for most of the others.
    for _, page in showings:
        for letter, model in zip("ABC", page.order, strict=True):
            others = dict(guesses[letter, page.number])
            others[model] -= 1
            hits += max(others, key=lambda name: others[name]) == model
    assert hits / (3 * len(showings)) < 1 / 3 + 0.06


def test_the_time_to_serve_an_image_does_not_depend_on_what_its_file_was(
    write_study: Callable[..., Study], studio_of: Any, tmp_path: Path
) -> None:
    """One model's files are large noisy PNG, the other's small flat JPEG; what is served is prepared before."""

    study = write_study(tmp_path, num_prompts=1, num_models=2, images_per_set=8, side=64)
    generator = np.random.default_rng(0)
    sets = []
    for each in study.sets:
        images = []
        for image in each.images:
            file = tmp_path / image.file
            if each.model == "model-0":
                Image.fromarray(generator.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)).save(file)
            else:
                file = file.with_suffix(".jpg")
                Image.new("RGB", (64, 64), "brown").save(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            images.append(StudyImage(file=str(file.relative_to(tmp_path)), sha256=digest))
        sets.append(each.model_copy(update={"images": tuple(images)}))
    study = study.model_copy(update={"sets": tuple(sets)})
    study = study.model_copy(update={"digest": digest_of(study.model_dump(mode="json"))})
    (tmp_path / "study.json").write_text(json.dumps(study.model_dump(mode="json")))
    with RatingStore.open(tmp_path / "ratings.sqlite", study) as store:
        client = studio_of(study, store, tmp_path).browser(store.enrol("Ada").token)
        page = store.pages(0)[0]
        names: Any = defaultdict(list)
        for grid in GRID.finditer(client.get("/page/1").text):
            if grid[1] != "Real images":
                names[page.model_of(grid[1].removeprefix("Set "))] += IMAGE.findall(grid[0])
        times = defaultdict(list)
        for _ in range(12):
            for model in ("model-0", "model-1"):
                for name in names[model]:
                    start = time.perf_counter()
                    client.get(f"/image/{name}")
                    times[model].append(time.perf_counter() - start)
    fast, slow = sorted(np.median(each) for each in times.values())
    # Decoding the noisy file would take ten times as long as everything else together.
    assert slow < 1.5 * fast
