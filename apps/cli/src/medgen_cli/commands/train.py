"""`medgen train`: images and captions become a model or an adapter."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Device, Overrides, Seed
from medgen_cli.errors import UsageError
from medgen_cli.output import print_note, print_result
from medgen_cli.progress import ProgressLine

if TYPE_CHECKING:
    from medgen_captioning.paraphrasing import ParaphraseRow
    from medgen_data.image_folder import ImageDataset

    from medgen_cli.recipes import AnyTrainConfig
    from medgen_cli.stages.training_texts import TrainingTexts


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Recipe (.yaml); the same as --config.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DATASET", help="Data set folder; a dry run does without."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of checkpoints, log and model or adapter."),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="Captions file of the data set.")
    ] = None,
    paraphrases: Annotated[
        Path | None,
        typer.Option(
            "--paraphrases",
            metavar="FILE",
            help="Table Filename,Prompt,Paraphrase; added, or as the recipe's paraphrase.strategy says.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="msdm-tiny or msdm-256; dit-s-8 for train.family dit.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option("--text-encoder", help="minilm, a hub name, or a local folder.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Model that an adapter is trained on: hub name or local folder."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint; it must exist.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print counts, costs and sizes; touch no weights and no GPU.")
    ] = False,
    num_images: Annotated[
        int | None,
        typer.Option("--num-images", min=1, help="Training images of a dry run, in place of counted ones."),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option("--fit", metavar="SIZE", help="With --dry-run: settings for such a device, e.g. 24GB."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a generator on a data set and its captions.

    Only the training split is used. The first Ctrl-C ends the step and writes a checkpoint; the second stops
    at once. `accelerate launch --no_python medgen train ...` trains an adapter on several processes.
    """
    from medgen_cli.dry_run import plan_lines
    from medgen_cli.provenance import choose_device
    from medgen_cli.recipes import load_train_config, result_name
    from medgen_cli.sections import recipe_seed
    from medgen_cli.stages.training import launched_rank, require_earlier_training, train_model

    if recipe is not None and config is not None:
        raise UsageError(f"give the recipe once: {recipe}, or --config {config}")
    if (num_images is not None or fit is not None) and not dry_run:
        raise UsageError("--num-images and --fit belong to --dry-run; a training counts its images itself")
    config = recipe or config
    changes = overrides or []
    flags = {"preset": preset, "text_encoder": text_encoder, "base": base}
    settings = load_train_config(config, changes, flags)
    if dry_run:
        planned = _plan(settings, data, config, changes, num_images=num_images, fit=fit)
        print_result(planned, as_json=as_json, lines=plan_lines(planned))
        return
    if data is None or out is None:
        raise UsageError(f"{'--data' if data is None else '--out'} is missing; only a --dry-run does without")
    dataset, texts = _described_images(data, captions, paraphrases, config, changes)
    if resume:
        require_earlier_training(out)
    is_first = launched_rank() == 0
    with ProgressLine("train") if is_first else nullcontext() as progress:
        result_dir = train_model(
            dataset,
            texts,
            settings,
            out,
            seed=recipe_seed(config, changes, seed),
            device=choose_device(device),
            resume=resume,
            progress=progress,
        )
    name = result_name(settings)
    if is_first:
        print_result({name: str(result_dir)}, as_json=as_json, lines=[f"{name} in {result_dir}"])


def _described_images(
    data: Path,
    captions: Path | None,
    paraphrases: Path | None,
    config: Path | None,
    overrides: Sequence[str],
) -> tuple["ImageDataset", "TrainingTexts"]:
    """Read the images, and the texts that the recipe's `caption` and `paraphrase` sections let each have."""
    from medgen_captioning.paraphrasing import ParaphraseConfig
    from medgen_data.captions import read_captions
    from medgen_data.image_folder import read_image_folder

    from medgen_cli.plan import texts_of_records
    from medgen_cli.sections import load_section
    from medgen_cli.settings import CaptionSettings, ParaphraseSettings
    from medgen_cli.stages.training import training_records
    from medgen_cli.stages.training_texts import texts_to_train_on

    caption = load_section("caption", CaptionSettings, config_file=config, overrides=overrides, flags={})
    dataset = read_image_folder(data)
    rows = read_captions(captions) if captions else {}
    texts = texts_of_records(dataset, rows, dataset_texts=caption.dataset_texts)
    mixing = load_section("paraphrase", ParaphraseSettings, config_file=config, overrides=overrides, flags={})
    return dataset, texts_to_train_on(
        training_records(dataset),
        texts,
        rows=_read_paraphrases(paraphrases or mixing.file, mixing.strategy),
        config=ParaphraseConfig(strategy="add") if mixing.strategy == "none" and paraphrases else mixing,
        flips=caption.flips,
    )


def _read_paraphrases(file: Path | None, strategy: str) -> "list[ParaphraseRow]":
    from medgen_captioning.paraphrasing import read_paraphrases

    if file is None:
        if strategy != "none":
            raise UsageError(
                f"paraphrase.strategy: {strategy} needs paraphrases; make them with `medgen paraphrase` and give "
                "--paraphrases FILE"
            )
        return []
    rows, problems = read_paraphrases(file)
    if problems:
        print_note(f"{file}: {len(problems)} rows are left out, the first: {problems[0]}")
    return rows


def _plan(
    settings: "AnyTrainConfig",
    data: Path | None,
    config: Path | None,
    overrides: Sequence[str],
    *,
    num_images: int | None,
    fit: str | None,
) -> dict[str, Any]:
    """Plan a training whose images are counted where they are: a data set, the recipe's source, or an option."""
    from medgen_data.image_folder import read_image_folder

    from medgen_cli.dry_run import count_training_images, parse_memory, training_plan
    from medgen_cli.sections import load_section
    from medgen_cli.settings import CaptionSettings, DataSettings
    from medgen_cli.stages.training import training_records

    if num_images is None and data is not None:
        num_images = len(training_records(read_image_folder(data)).records)
    if num_images is None:
        source = load_section("data", DataSettings, config_file=config, overrides=overrides, flags={})
        num_images = count_training_images(source)
    memory_bytes = None if fit is None else parse_memory(fit)
    caption = load_section("caption", CaptionSettings, config_file=config, overrides=overrides, flags={})
    num_rows = num_images * (2 if caption.flips else 1)
    return {"num_images": num_images, **training_plan(settings, num_rows, fit_bytes=memory_bytes)}
