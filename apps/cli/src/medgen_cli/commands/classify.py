"""`medgen classify`: what classifiers recognise in synthetic images, and learn from them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Device, Overrides, Seed
from medgen_cli.output import print_result, table
from medgen_cli.progress import ProgressLine


def classify(
    real: Annotated[
        Path, typer.Option("--real", metavar="DATASET", help="Real images with train and test split.")
    ],
    synthetic: Annotated[Path, typer.Option("--synthetic", metavar="DATASET", help="Synthetic images.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of figures and predictions.")],
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="tiny, a hub name, or a local folder.")
    ] = None,
    recognise: Annotated[
        list[str] | None,
        typer.Option("--recognise", metavar="ATTRIBUTE", help="label or facts.NAME; may be given again."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Judge synthetic images with classifiers.

    Classifiers trained on real images say whether the synthetic images show what their prompts asked for; a
    classifier trained on synthetic images only is compared with one trained on real images only.
    """
    from medgen_data.image_folder import read_image_folder

    from medgen_cli.provenance import choose_device
    from medgen_cli.recipes import ClassifySettings
    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.stages.classification import classify_datasets

    changes = overrides or []
    flags = {"backbone": backbone, "recognise": recognise or None, "epochs": epochs}
    settings = load_section("classify", ClassifySettings, config_file=config, overrides=changes, flags=flags)
    real_set, synthetic_set = read_image_folder(real), read_image_folder(synthetic)
    with ProgressLine("classify") as progress:
        found = classify_datasets(
            real_set,
            synthetic_set,
            settings,
            out,
            seed=recipe_seed(config, changes, seed),
            device=choose_device(device),
            on_step=lambda name, step, total: progress(step, total, phase=name),
        )
    rows = [
        [f"{attribute}, seen in {side.replace('_', ' ')} images", *_accuracy(figures)]
        for attribute, sides in found["recognition"].items()
        for side, figures in sides.items()
    ]
    rows += [
        [f"label, learnt from {side.replace('_', ' ')}", *_accuracy(figures)]
        for side, figures in found["classification"].items()
    ]
    print_result(found, as_json=as_json, lines=table(rows, header=["classifier", "accuracy", "95% interval"]))


def _accuracy(figures: dict[str, Any]) -> list[str]:
    accuracy = figures["accuracy"]
    low, high = accuracy["interval"]
    return [f"{100 * accuracy['value']:.1f}%", f"{100 * low:.1f}% to {100 * high:.1f}%"]
