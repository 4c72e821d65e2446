"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="RECIPE", help="Take settings from this recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one field of the recipe; may be given again."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed; the recipe's, else 0.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
