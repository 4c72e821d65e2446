"""`medgen train`: images and captions become a model."""

from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Device, Overrides, Seed
from medgen_cli.output import print_result
from medgen_cli.progress import ProgressLine


def train(
    data: Annotated[Path, typer.Option("--data", metavar="DATASET", help="Data set folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of checkpoints, log and model.")],
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="Captions file of the data set.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="msdm-tiny or msdm-256.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option("--text-encoder", help="minilm, a hub name, or a local folder.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint; it must exist.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print counts and sizes; touch no weights and no GPU.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a generator on a data set and its captions.

    Only the training split is used. The first Ctrl-C ends the step and writes a checkpoint; the second stops
    at once.
    """
    from medgen_data.captions import read_captions
    from medgen_data.image_folder import read_image_folder
    from medgen_training import MsdmTrainConfig

    from medgen_cli.dry_run import plan_lines, training_plan
    from medgen_cli.plan import texts_of_records
    from medgen_cli.provenance import choose_device
    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.settings import CaptionSettings
    from medgen_cli.stages.training import require_earlier_training, train_model, training_records

    changes = overrides or []
    flags = {"preset": preset, "text_encoder": text_encoder}
    settings = load_section("train", MsdmTrainConfig, config_file=config, overrides=changes, flags=flags)
    caption = load_section("caption", CaptionSettings, config_file=config, overrides=changes, flags={})
    dataset = read_image_folder(data)
    texts = texts_of_records(
        dataset, read_captions(captions) if captions else {}, dataset_texts=caption.dataset_texts
    )
    if dry_run:
        num_images = len(training_records(dataset).records)
        planned = {"num_images": num_images, **training_plan(settings, num_images)}
        print_result(planned, as_json=as_json, lines=plan_lines(planned))
        return
    if resume:
        require_earlier_training(out)
    with ProgressLine("train") as progress:
        model_dir = train_model(
            dataset,
            texts,
            settings,
            out,
            seed=recipe_seed(config, changes, seed),
            device=choose_device(device),
            resume=resume,
            progress=progress,
        )
    print_result({"model": str(model_dir)}, as_json=as_json, lines=[f"model in {model_dir}"])
