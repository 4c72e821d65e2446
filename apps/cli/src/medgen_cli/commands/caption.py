"""`medgen caption`: a caption for every image of a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgen_cli.commands.options import AsJson, ConfigFile, Overrides, Seed
from medgen_cli.errors import PartialError, UsageError
from medgen_cli.output import print_result
from medgen_cli.progress import ProgressLine

if TYPE_CHECKING:
    from medgen_captioning import CaptionRun
    from medgen_captioning.planning import CaptionPlan

# The sections of a recipe that a method with a model has.
_SECTIONS = {"server": "server", "vision-language": "vision_language"}


def caption(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Data set folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The captions file to write (.jsonl).")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="measured (from the pixels), simple, empty, file, vision-language (a model here) or server.",
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option("--modality", help="Word for the kind of image; the data set's own by default."),
    ] = None,
    max_words: Annotated[int | None, typer.Option("--max-words", help="Longest caption.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Take the texts of this .csv or .jsonl (method file).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Hub name or folder of the model, or its name on the server."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="OpenAI-compatible endpoint (method server)."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Text encoder that captions must fit: clip, pixart or flux."),
    ] = None,
    simplify: Annotated[
        str | None,
        typer.Option("--simplify", metavar="MODEL", help="T5 that shortens captions over the target."),
    ] = None,
    allow_egress: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-egress", metavar="HOST", help="Images may be sent to this host; again for more."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FILE", help="Where answers are kept; beside the captions by default."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Caption the i-th of n parts, counted from 1."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N, for a model here.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be asked and what it may cost; ask nothing.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Write one caption per image of a data set.

    The data set itself stays as it is.

    Run the same command again to continue a file that an interrupted run left. Answers of a model are kept by
    content: none is paid for twice. Shards may run at the same time; the last one writes the file.
    """
    from medgen_data.image_folder import read_image_folder

    from medgen_cli.sections import load_section, recipe_seed
    from medgen_cli.settings import CaptionSettings
    from medgen_cli.stages.captions import make_captions, plan_captions

    changes = overrides or []
    flags = {
        "method": method, "modality": modality, "max_words": max_words, "budget": target, "file": file,
    }  # fmt: skip
    nested = {"model": model, "base_url": base_url, "simplify": simplify}
    changes = [*changes, *_changes_of_sections(config, changes, method, nested)]
    settings = load_section("caption", CaptionSettings, config_file=config, overrides=changes, flags=flags)
    access = _access(cache, allow_egress, shard, device)
    images = read_image_folder(dataset)
    run_seed = recipe_seed(config, changes, seed)
    if dry_run:
        plan = plan_captions(images, out, settings, seed=run_seed, access=access)
        print_result(_planned(plan, out), as_json=as_json, lines=_plan_lines(plan, out))
        return
    with ProgressLine("caption") as progress:
        done = make_captions(images, out, settings, seed=run_seed, access=access, on_progress=progress)
    _report(done, out, as_json=as_json)


def _changes_of_sections(
    config: Path | None, changes: list[str], method: str | None, nested: dict[str, str | None]
) -> list[str]:
    """Return the flags of the sections of `caption` as `--set` changes."""
    from medgen_cli.config_files import apply_overrides, read_yaml

    section: Any = apply_overrides(read_yaml(config) if config else {}, changes).get("caption") or {}
    known = section if isinstance(section, dict) else {}
    chosen = str(method or known.get("method") or "measured")
    found = []
    if chosen == "vision-language" and not known.get("vision_language"):
        found.append("caption.vision_language={}")
    if nested["model"] is not None:
        if chosen not in _SECTIONS:
            raise UsageError(
                f"--model has no meaning for method {chosen}; add --method vision-language or server"
            )
        found.append(f"caption.{_SECTIONS[chosen]}.model={nested['model']}")
    if nested["base_url"] is not None:
        if chosen != "server":
            raise UsageError(f"--base-url has no meaning for method {chosen}; add --method server")
        found.append(f"caption.server.base_url={nested['base_url']}")
    if nested["simplify"] is not None:
        found.append(f"caption.simplify.model={nested['simplify']}")
    return found


def _access(cache: Path | None, allow_egress: list[str] | None, shard: str | None, device: str | None) -> Any:
    from medgen_cli.plan import parse_shard
    from medgen_cli.stages.captions import CaptionAccess, shard_of_process

    if shard is not None:
        number, count = parse_shard(shard)
        part, local_rank = (number - 1, count), None
    else:
        part, local_rank = shard_of_process()
    return CaptionAccess(cache, tuple(allow_egress or ()), device, part, local_rank)


def _planned(plan: "CaptionPlan", out: Path) -> dict[str, object]:
    return {
        "dry_run": True,
        "captions": str(out),
        "num_records": plan.num_records,
        "num_finished": plan.num_finished,
        "num_settled": plan.num_settled,
        "num_to_ask": plan.num_to_ask,
        "num_to_simplify": plan.num_to_simplify,
        "most_answers": plan.most_answers,
        "most_requests": plan.most_requests,
        "most_prompt_tokens": plan.most_prompt_tokens,
        "most_answer_tokens": plan.most_answer_tokens,
        "most_cost": plan.most_cost,
        "problems": [problem.model_dump(mode="json") for problem in plan.problems],
    }


def _plan_lines(plan: "CaptionPlan", out: Path) -> list[str]:
    lines = [
        f"{out}: {plan.num_records} images; {plan.num_finished} captions are there, {plan.num_settled} need no "
        f"answer, {plan.num_to_ask} have to be asked about"
    ]
    if plan.most_answers:
        lines.append(f"at most {plan.most_answers} answers, if all but the last draft of each image fail")
    if plan.most_requests:
        prompts = "an unknown number" if plan.most_prompt_tokens is None else str(plan.most_prompt_tokens)
        cost = "unknown" if plan.most_cost is None else f"{plan.most_cost:.2f}"
        lines.append(
            f"at most {plan.most_requests} requests, if each needs all its tries: {prompts} of prompt tokens, "
            f"{plan.most_answer_tokens} of answers, cost {cost}"
        )
    if plan.num_to_simplify:
        lines.append(f"{plan.num_to_simplify} captions have to be shortened")
    return lines + [f"no caption: {problem}" for problem in plan.problems]


def _report(done: "CaptionRun", out: Path, *, as_json: bool) -> None:
    result = {
        "captions": str(out),
        "complete": not done.num_shards_missing,
        "num_written": done.num_written,
        "num_reused": done.num_reused,
        "num_asked": done.num_asked,
        "num_in_doubt": done.num_in_doubt,
        "num_shards_missing": done.num_shards_missing,
        "quarantine": str(done.quarantine_file) if done.quarantine_file is not None else None,
        "problems": [problem.model_dump(mode="json") for problem in done.problems],
    }
    missing = f", {done.num_shards_missing} other shards are missing" if done.num_shards_missing else ""
    doubt = (
        f", {done.num_in_doubt} requests of a killed run may have been charged" if done.num_in_doubt else ""
    )
    line = f"{out}: {done.num_written} captions written, {done.num_reused} were there{missing}{doubt}"
    print_result(result, as_json=as_json, lines=[line])
    if done.problems:
        listed = done.problems_file or out.with_name("problems.jsonl")
        drafts = (
            f"\nrejected drafts with reasons are in {done.quarantine_file}" if done.quarantine_file else ""
        )
        raise PartialError(
            f"{len(done.problems)} images have no caption, the first: {done.problems[0]}\n"
            f"all are listed in {listed}{drafts}"
        )
