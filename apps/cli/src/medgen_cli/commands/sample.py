"""`medgen sample`: prompts become synthetic images."""

from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Device, Overrides, Seed
from medgen_cli.output import print_result
from medgen_cli.progress import ProgressLine


def sample(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Model or adapter folder, as `medgen train` leaves it."),
    ],
    prompts: Annotated[
        Path,
        typer.Option(
            "--prompts",
            metavar="DATASET|FILE",
            help="Data set whose texts are the prompts, or a text file with one prompt per line.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DATASET", help="Folder of the synthetic data set.")],
    base: Annotated[
        str | None,
        typer.Option("--base", help="Where the base model of an adapter is now: folder or hub name."),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            "--decoder", help="Decoder for an adapter of Kandinsky 2.2's prior: name, folder or adapter."
        ),
    ] = None,
    prior_adapter: Annotated[
        Path | None,
        typer.Option(
            "--prior-adapter", metavar="DIR", help="Adapter of the prior, for a Kandinsky 2.2 decoder."
        ),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="Captions file of the data set.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", help="Number of images; one per prompt by default.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", help="Number of images of each class.")
    ] = None,
    prompts_from: Annotated[
        str | None, typer.Option("--prompts-from", help="Split of the data set: test, train or validation.")
    ] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", help="dpm-solver++, ddim, or euler for flows.")
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", help="Steps of the solver.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", help="1: no guidance; higher follows the prompt more.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images drawn at once; changes no image.")
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Draw the i-th of n parts, counted from 1.")
    ] = "1/1",
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist on continuing: there must be images already.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw synthetic images from prompts.

    They form a data set of the same format as the real one.

    The same prompt and seed give the same image, whatever the batch, the shard or the order. Run the same
    command again to continue; shards may run at the same time, and the last one writes the rows and the card.
    """
    from medgen_cli.plan import parse_shard
    from medgen_cli.provenance import choose_device
    from medgen_cli.recipes import SampleSettings
    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.stages.prompts import plan_from, require_earlier_images
    from medgen_cli.stages.synthesis import draw_images

    changes = overrides or []
    flags = {
        "num_images": num_images,
        "per_class": per_class,
        "prompts_from": prompts_from,
        "solver": solver,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "batch_size": batch_size,
        "decoder": decoder,
        "prior_adapter": prior_adapter,
    }
    settings = load_section("sample", SampleSettings, config_file=config, overrides=changes, flags=flags)
    part = parse_shard(shard)
    if resume:
        require_earlier_images(out)
    prompt_set = plan_from(
        prompts,
        captions,
        settings,
        seed=recipe_seed(config, changes, seed),
        set_name=out.name,
        model_dir=model,
    )
    with ProgressLine("sample") as progress:
        drawn = draw_images(
            model,
            prompt_set.plan,
            settings.sampling(),
            out,
            card=prompt_set.card,
            device=choose_device(device),
            options=settings.generator_options(base=base),
            shard=part,
            on_progress=progress,
        )
    result = {
        "dataset": str(out),
        "complete": drawn.dataset is not None,
        "num_drawn": drawn.num_drawn,
        "num_kept": drawn.num_kept,
        "num_missing": drawn.num_missing,
    }
    missing = f", {drawn.num_missing} of other shards are missing" if drawn.num_missing else ""
    line = f"{out}: {drawn.num_drawn} images drawn, {drawn.num_kept} were there{missing}"
    print_result(result, as_json=as_json, lines=[line])
