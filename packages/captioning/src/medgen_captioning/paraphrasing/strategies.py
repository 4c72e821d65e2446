"""What paraphrases do to a training set (Chaichuk et al. 2025, section 4.3): add, replace some, replace all.

The paper found adding best: the original texts stay, every image comes twice. A text that is dropped for
classifier-free guidance is empty under every strategy, never a paraphrase.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Strategy = Literal["add", "none", "replace_all", "replace_random"]


class ParaphraseConfig(BaseModel):
    """How paraphrases enter training.

    Attributes:
        strategy: `none` keeps the prompts; `add` has every image twice, with its prompt and its paraphrase;
            `replace_all` and `replace_random` put the paraphrase in the prompt's place.
        probability: How often `replace_random` replaces; only there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = "none"
    probability: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _probability_where_it_belongs(self) -> "ParaphraseConfig":
        if (self.strategy == "replace_random") != (self.probability is not None):
            raise ValueError(
                f"probability belongs to strategy replace_random, 0 < probability < 1; got strategy "
                f"{self.strategy} with probability {self.probability}"
            )
        return self


@dataclass(frozen=True)
class ParaphraseRow:
    """One prompt of one image and its paraphrase.

    Attributes:
        file_name: The image, as the source table names it.
        prompt: Text the image came with.
        paraphrase: The same in other words.
    """

    file_name: str
    prompt: str
    paraphrase: str


@dataclass(frozen=True)
class ImageText:
    """One text of one image, as training reads it."""

    file_name: str
    text: str


def add(rows: Sequence[ParaphraseRow]) -> list[ImageText]:
    """Return the prompts, then their paraphrases: twice as many where each prompt of an image has one."""
    return keep(rows) + replace_all(rows)


def keep(rows: Sequence[ParaphraseRow]) -> list[ImageText]:
    """Return the prompts alone, each once for each of its images."""
    return list(dict.fromkeys(ImageText(row.file_name, row.prompt) for row in rows))


def replace_all(rows: Sequence[ParaphraseRow]) -> list[ImageText]:
    """Return the paraphrases alone."""
    return [ImageText(row.file_name, row.paraphrase) for row in rows]


def replace_random(rows: Sequence[ParaphraseRow], probability: float, seed: int) -> list[ImageText]:
    """Return each row's paraphrase with the given probability, else its prompt; another seed each epoch.

    Raises:
        ValueError: If `probability` is not between 0 and 1.
    """
    random = Random(seed)
    return [
        ImageText(row.file_name, draw_text(row, probability, random.random(), context_dropped=False))
        for row in rows
    ]


def draw_text(row: ParaphraseRow, probability: float, draw: float, *, context_dropped: bool) -> str:
    """Return the text of one training step: prompt, paraphrase, or nothing if the context is dropped.

    Args:
        row: Prompt and paraphrase.
        probability: How often the paraphrase takes the prompt's place, 0 to 1.
        draw: Uniform random number in [0, 1).
        context_dropped: Whether this step trains without text; then there is nothing to replace.

    Raises:
        ValueError: If `probability` is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be from 0 to 1, got {probability}")
    if context_dropped:
        return ""
    return row.paraphrase if draw < probability else row.prompt


def apply_strategy(rows: Sequence[ParaphraseRow], config: ParaphraseConfig, seed: int) -> list[ImageText]:
    """Return the texts of a training set under a strategy; `seed` matters to `replace_random` alone."""
    match config.strategy:
        case "none":
            return keep(rows)
        case "add":
            return add(rows)
        case "replace_all":
            return replace_all(rows)
        case "replace_random":
            assert config.probability is not None  # the config's own check
            return replace_random(rows, config.probability, seed)


def pair(
    images: Sequence[ImageText],
    paraphrases: Mapping[str, Sequence[str]],
    seed: int,
    *,
    all_of_them: bool = False,
) -> tuple[list[ParaphraseRow], list[ImageText]]:
    """Give each image text one paraphrase; texts that share a prompt take different ones as long as they last.

    Args:
        images: Prompts of images, in the order of the result.
        paraphrases: Paraphrases by prompt.
        seed: Which row gets which.
        all_of_them: Where there are more paraphrases than texts of a prompt, deal out the rest too: a text then has
            several rows.

    Returns:
        The rows, and the image texts whose prompt has no paraphrase.
    """
    orders = {
        prompt: Random(f"{seed} {prompt}").sample(list(texts), len(texts))
        for prompt, texts in paraphrases.items()
    }
    counts = Counter(image.text for image in images)
    used: Counter[str] = Counter()
    rows, without = [], []
    for image in images:
        order = orders.get(image.text)
        if not order:
            without.append(image)
            continue
        place = used[image.text]
        own = order[place :: counts[image.text]] or [order[place % len(order)]]
        rows += [
            ParaphraseRow(image.file_name, image.text, text) for text in (own if all_of_them else own[:1])
        ]
        used[image.text] += 1
    return rows, without
