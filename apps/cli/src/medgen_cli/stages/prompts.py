"""Prompts of `medgen sample`: from a data set, or from a text file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medgen_data.captions import read_captions
from medgen_data.image_folder import read_image_folder
from medgen_data.problems import DataError

from medgen_cli.errors import UsageError
from medgen_cli.plan import PlannedImage, plan_images, plan_prompts, texts_of_records
from medgen_cli.stages.synthesis import PLAN_NAME, SyntheticSetCard

if TYPE_CHECKING:
    from medgen_cli.recipes import SampleSettings


@dataclass(frozen=True)
class PromptSet:
    """What is to be drawn, and what the card of the result says."""

    plan: tuple[PlannedImage, ...]
    card: SyntheticSetCard


def plan_from(
    prompts: Path,
    captions_file: Path | None,
    settings: "SampleSettings",
    *,
    seed: int,
    set_name: str,
    model_dir: Path,
) -> PromptSet:
    """Plan the images of `medgen sample`.

    Args:
        prompts: Data set folder, or text file with one prompt per line.
        captions_file: Captions of the data set, None: its own texts.
        settings: Counts and split.
        seed: Seed of the images.
        set_name: Name of the synthetic set.
        model_dir: Model folder, named on the card.

    Raises:
        DataError: If there are no prompts.
        UsageError: If options and prompts do not go together.
    """
    source = f"drawn by the model in {model_dir.name}"
    if prompts.is_dir():
        dataset = read_image_folder(prompts)
        captions = read_captions(captions_file) if captions_file else {}
        chosen = dataset.select(split=settings.prompts_from)
        plan = plan_images(
            chosen.records,
            texts_of_records(chosen, captions, dataset_texts="all" if captions_file is None else "none"),
            seed=seed,
            num_images=settings.num_images,
            per_class=settings.per_class,
        )
        card = dataset.card
        return PromptSet(plan, SyntheticSetCard(set_name, card.modality, source, card.licence))
    if settings.per_class is not None or captions_file is not None:
        raise UsageError(
            f"{prompts}: --per-class and --captions need a data set; for a text file use --num-images"
        )
    lines = read_prompt_lines(prompts)
    plan = plan_prompts(lines, seed=seed, num_images=settings.num_images)
    return PromptSet(plan, SyntheticSetCard(set_name, "unknown", source, "as the model's"))


def read_prompt_lines(prompts_file: Path) -> list[str]:
    """Return the prompts of a text file: one per line, empty lines skipped.

    Raises:
        DataError: If the file is missing, not UTF-8, or holds no prompt.
    """
    try:
        text = prompts_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{prompts_file}: no such file or data set; give a data set folder or a text file"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{prompts_file}: not UTF-8 text (byte {error.start})") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{prompts_file}: holds no prompt; write one per line")
    return lines


def require_earlier_images(dataset_dir: Path) -> None:
    """Refuse `--resume` where nothing was begun: a new set under a mistyped name would be worse.

    Raises:
        UsageError: If the folder holds no plan.
    """
    if not (dataset_dir / PLAN_NAME).is_file():
        raise UsageError(f"{dataset_dir}: nothing to resume; leave --resume out to start")
