"""A whole experiment: every stage of a recipe in turn, in one run folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medgen_cli.errors import OK, PARTIAL, Terminated, describe
from medgen_cli.provenance import git_commit, peak_memory, versions
from medgen_cli.recipes import Recipe
from medgen_cli.run_folder import RunFolder, Status, open_run, write_crash_file
from medgen_cli.walk import Walk


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    *,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    fork: bool = False,
    allow_egress: Sequence[str] = (),
) -> int:
    """Walk all stages of a recipe; finished ones are skipped, a stopped one continues.

    Args:
        recipe: The experiment.
        run_dir: Its folder, new or from an earlier attempt.
        overrides: The `--set` options that went into the recipe, for the record.
        device: Where tensors live.
        fork: Accept that the folder holds another recipe, and redo what changed.
        allow_egress: Hosts besides this machine that images may be sent to for captions.

    Returns:
        Number of rows of data that failed and are listed in `problems.jsonl`.

    Raises:
        UsageError: If the folder cannot be used.
    """
    provenance = {"versions": versions(), "git_commit": git_commit()}
    resolved = recipe.model_dump(mode="json")
    with open_run(
        run_dir,
        name=recipe.name,
        recipe=resolved,
        overrides=overrides,
        device=device,
        provenance=provenance,
        fork=fork,
    ) as run:
        try:
            Walk(recipe, run, device, allow_egress).all_stages()
        except BaseException as error:
            _record_failure(run, error)
            raise
        num_problems = sum(stage.num_problems for stage in run.record.stages.values())
        status: Status = "partial" if num_problems else "complete"
        run.finish(status, exit_code=PARTIAL if num_problems else OK, memory=peak_memory())
    return num_problems


def _record_failure(run: RunFolder, error: BaseException) -> None:
    failure = describe(error)
    stopped = isinstance(error, KeyboardInterrupt | Terminated)
    # A full disk may refuse the record too; the first error is the one to tell.
    with suppress(OSError):
        if not failure.expected:
            crash_file = write_crash_file(run.run_dir, error)
            error.add_note(f"the traceback is in {crash_file}; please report it")
        run.finish(
            "interrupted" if stopped else "failed",
            exit_code=failure.exit_code,
            error=failure.message,
            memory=peak_memory(),
        )


def stage_table(run: Mapping[str, Any]) -> list[list[str]]:
    """Return one row per stage of run.json: name, status, seconds."""
    return [[name, stage["status"], f"{stage['seconds']:.1f}"] for name, stage in run["stages"].items()]
