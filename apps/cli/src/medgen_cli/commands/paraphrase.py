"""`medgen paraphrase`: other words for prompts, with the same facts."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Overrides, Seed
from medgen_cli.errors import PartialError, UsageError
from medgen_cli.output import print_result
from medgen_cli.progress import ProgressLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medgen_captioning.paraphrasing import ImageText
    from medgen_data.problems import Problem

    from medgen_cli.settings import ParaphraseSettings


def paraphrase(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Prompts: .csv (Prompt, Filename), .txt (one per line), captions .jsonl, or a data set folder.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="The table Filename,Prompt,Paraphrase to write (.csv)."),
    ],
    method: Annotated[
        str | None,
        typer.Option("--method", help="grammar (no model), or llm (a language model here or on a server)."),
    ] = None,
    per_prompt: Annotated[
        int | None,
        typer.Option("--per-prompt", help="Paraphrases of each prompt; as many as it has images by default."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help="Also write prompts mixed for training (FILE with .texts.csv): add, replace_random, replace_all.",
        ),
    ] = None,
    probability: Annotated[
        float | None, typer.Option("--p", help="How often replace_random replaces, between 0 and 1.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Hub name or folder of the model, or its name on the server (method llm)."
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="OpenAI-compatible endpoint (method llm)."),
    ] = None,
    allow_egress: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-egress", metavar="HOST", help="Prompts may be sent to this host; again for more."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FILE", help="Where answers are kept; beside the table by default."),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count prompts and paraphrases; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say the prompts of images in other words.

    A paraphrase that states other facts than its prompt is not taken; FILE with .rejected.jsonl says which and why.

    Run the same command again to continue a table that an interrupted run left. Answers of a model are kept by
    content: none is paid for twice.
    """
    from medgen_captioning.paraphrasing import read_image_texts

    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.settings import ParaphraseSettings
    from medgen_cli.stages.paraphrases import (
        ModelAccess,
        make_paraphrases,
        most_answers,
        plan_of_paraphrases,
    )

    changes = [*(overrides or []), *_changes_of_model(config, overrides or [], method, model, base_url)]
    flags = {
        "method": method,
        "per_prompt": per_prompt,
        "strategy": strategy,
        "probability": probability,
    }
    settings = load_section(
        "paraphrase", ParaphraseSettings, config_file=config, overrides=changes, flags=flags
    )
    if settings.method == "file":
        raise UsageError("paraphrase.method: file has its paraphrases already; choose grammar or llm")
    images, left_out = read_image_texts(source)
    chosen_seed = recipe_seed(config, changes, seed)
    if dry_run:
        plan = plan_of_paraphrases(images, out, settings, seed=chosen_seed)
        planned = {**asdict(plan), "most_answers": most_answers(plan, settings)}
        print_result(planned, as_json=as_json, lines=[f"{name}: {value}" for name, value in planned.items()])
        return
    with ProgressLine("paraphrase") as progress:
        access = ModelAccess(cache, tuple(allow_egress or ()))
        done = make_paraphrases(images, out, settings, seed=chosen_seed, access=access, on_progress=progress)
    result: dict[str, Any] = {
        "paraphrases": str(out),
        "num_prompts": done.num_written + done.num_reused,
        "num_reused": done.num_reused,
        "rejected": str(out.with_suffix(".rejected.jsonl")),
        "num_rejected": sum(problem.code == "rejected" for problem in done.problems),
        **_mixed_texts(images, out, settings, seed=chosen_seed),
        "problems": [problem.model_dump(mode="json") for problem in (*left_out, *done.problems)],
    }
    lines = [f"{out}: {result['num_prompts']} prompts in other words, {done.num_reused} were there"]
    if "texts" in result:
        lines.append(f"{result['texts']}: {result['num_texts']} texts, strategy {settings.strategy}")
    print_result(result, as_json=as_json, lines=lines)
    _fail_if_partial(left_out, [p for p in done.problems if p.code == "no-paraphrase"], out)


def _changes_of_model(
    config: Path | None, changes: list[str], method: str | None, model: str | None, base_url: str | None
) -> list[str]:
    """Return `--model` and `--base-url` as `--set` changes of the section that they mean."""
    from medgen_cli.config_files import apply_overrides, read_yaml

    if model is None and base_url is None:
        return []
    section: Any = apply_overrides(read_yaml(config) if config else {}, changes).get("paraphrase") or {}
    known = section if isinstance(section, dict) else {}
    if (method or known.get("method")) != "llm":
        raise UsageError("--model and --base-url have no meaning without --method llm")
    models = known.get("language_model") or {}
    who = "server" if base_url is not None or "server" in models else "text_model"
    flags = {"model": model, "base_url": base_url}
    return [
        f"paraphrase.language_model.{who}.{name}={value}"
        for name, value in flags.items()
        if value is not None
    ]


def _mixed_texts(
    images: "Sequence[ImageText]", out: Path, settings: "ParaphraseSettings", *, seed: int
) -> dict[str, Any]:
    from medgen_cli.stages.paraphrases import write_mixed_texts

    if settings.strategy == "none":
        return {}
    texts_file = out.with_suffix(".texts.csv")
    return {
        "texts": str(texts_file),
        "num_texts": write_mixed_texts(images, out, texts_file, settings, seed=seed),
    }


def _fail_if_partial(left_out: "Sequence[Problem]", without: "Sequence[Problem]", out: Path) -> None:
    if not (left_out or without):
        return
    first = [*left_out, *without][0]
    raise PartialError(
        f"{len(left_out)} rows were left out and {len(without)} prompts have no paraphrase, the first: {first}\n"
        f"what was not taken is listed in {out.with_suffix('.rejected.jsonl')}"
    )
