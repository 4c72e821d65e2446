"""`medgen export`: an adapter for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medgen_cli.commands.options import AsJson
from medgen_cli.output import print_result


class ExportForm(StrEnum):
    """What other programs read."""

    LORA_FILE = "lora-file"
    MERGED = "merged"


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter folder of `medgen train`.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")],
    form: Annotated[
        ExportForm,
        typer.Option(
            "--form",
            help="lora-file: what load_lora_weights of diffusers reads (SD, SDXL, FLUX); "
            "merged: a whole pipeline folder with the adapter in its weights (all families).",
        ),
    ] = ExportForm.LORA_FILE,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="Where the base model is now: hub name or folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an adapter in a form that other programs read."""
    from medgen_models import save_model
    from medgen_models.adapters import DIFFUSERS_FILE, export_diffusers
    from medgen_models.base_models import load_adapted

    from medgen_cli.errors import UsageError

    if out.exists():
        raise UsageError(f"{out}: exists; choose another --out")
    model = load_adapted(adapter, base=base, merge=form is ExportForm.MERGED)
    if form is ExportForm.MERGED:
        save_model(model, out)
        written = out
    else:
        written = out / DIFFUSERS_FILE
        export_diffusers(model.components(), written, family=model.family)
    print_result({"written": str(written)}, as_json=as_json, lines=[f"written {written}"])
