"""The run folder: one experiment, its record, its lock, and what is finished already.

`run.json` is rewritten whole after every change, under a temporary name; its status becomes "complete" last.
A stage is finished when its key (its part of the recipe, the seed, the hashes of its inputs) is the one
recorded, and every file it left still has the recorded hash.
"""

import fcntl
import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from medgen_data.atomic import write_json_atomic, write_text_atomic
from medgen_data.fingerprint import file_sha256
from pydantic import BaseModel, ConfigDict, ValidationError

from medgen_cli.config_files import diff_fields
from medgen_cli.errors import Terminated, UsageError

Result = TypeVar("Result")
Status = Literal["running", "complete", "partial", "failed", "interrupted"]

RECORD_NAME = "run.json"
LOCK_NAME = "run.lock"
_PEAKS = ("peak_memory_bytes", "peak_gpu_memory_bytes")


class StageRecord(BaseModel):
    """One stage in run.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    key: str
    started_at: str
    seconds: float = 0.0
    outputs: dict[str, str] = {}  # path below the run folder -> SHA-256
    figures: dict[str, Any] = {}  # what the stage wants told: counts, parameters
    num_problems: int = 0


class RunRecord(BaseModel):
    """run.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    status: Status
    exit_code: int | None = None
    error: str | None = None
    recipe: dict[str, Any]
    overrides: tuple[str, ...] = ()
    device: str
    versions: dict[str, str]
    git_commit: str | None
    inputs: dict[str, str] = {}  # file or folder outside the run -> SHA-256
    stages: dict[str, StageRecord] = {}
    started_at: str
    finished_at: str | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None


@dataclass(frozen=True)
class StageOutcome:
    """What a stage reports when it is done."""

    files: tuple[
        Path, ...
    ]  # the files that stand for its output; their hashes are the inputs of later stages
    figures: Mapping[str, object]
    num_problems: int = 0


class RunFolder:
    """An open, locked run folder. Made by `open_run`."""

    def __init__(self, run_dir: Path, record: RunRecord) -> None:
        self.run_dir = run_dir
        self.record = record

    def run_stage(
        self, name: str, *, config: object, inputs: Sequence[str], do: Callable[[], StageOutcome]
    ) -> bool:
        """Do a stage, or skip it if it is finished and nothing it depends on changed.

        What an attempt with other inputs left in the stage's folder is moved to `history/`.

        Args:
            name: Name of the stage, and of its folder below the run folder.
            config: What of the recipe it depends on, as JSON values.
            inputs: Hashes of its inputs.
            do: The work; continues by itself where an earlier attempt stopped.

        Returns:
            True if the work was done, False if it was skipped.
        """
        key = _content_key([name, config, list(inputs)])
        if self._is_finished(name, key):
            self.log("stage skipped", stage=name)
            return False
        seconds_before = 0.0
        if self._was_stopped(name, key):
            seconds_before = self.record.stages[name].seconds
        elif (self.run_dir / name).exists():
            self._put_aside(self.run_dir / name)
        stage = StageRecord(status="running", key=key, started_at=_now(), seconds=seconds_before)
        self._put_stage(name, stage)
        self.log("stage started", stage=name)
        start = time.monotonic()
        try:
            outcome = do()
        except BaseException as error:
            status: Status = "interrupted" if isinstance(error, KeyboardInterrupt | Terminated) else "failed"
            seconds = stage.seconds + time.monotonic() - start
            self._put_stage(name, stage.model_copy(update={"status": status, "seconds": round(seconds, 3)}))
            raise
        finished = StageRecord(
            status="partial" if outcome.num_problems else "complete",
            key=key,
            started_at=stage.started_at,
            seconds=round(stage.seconds + time.monotonic() - start, 3),
            outputs={file.relative_to(self.run_dir).as_posix(): file_sha256(file) for file in outcome.files},
            figures=dict(outcome.figures),
            num_problems=outcome.num_problems,
        )
        self._put_stage(name, finished)
        self.log("stage finished", stage=name, seconds=finished.seconds, **finished.figures)
        return True

    def outputs_of(self, name: str) -> list[str]:
        """Return the hashes of what a finished stage left, for the stages that read it."""
        return [f"{file}:{sha256}" for file, sha256 in self.record.stages[name].outputs.items()]

    def add_input(self, path: Path, sha256: str) -> None:
        """Record the hash of a file or folder outside the run that was read."""
        self._update(inputs={**self.record.inputs, str(path): sha256})

    def log(self, event: str, **details: object) -> None:
        """Append one event to log.jsonl."""
        row = json.dumps({"time": _now(), "event": event, **details}, ensure_ascii=False, default=str)
        with (self.run_dir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(row + "\n")

    def finish(
        self,
        status: Status,
        *,
        exit_code: int,
        error: str | None = None,
        memory: Mapping[str, int | None] | None = None,
    ) -> None:
        """Write the last word about the run; `memory` holds this attempt's peaks, in bytes."""
        peaks = {
            name: max(filter(None, (getattr(self.record, name), (memory or {}).get(name))), default=None)
            for name in _PEAKS
        }
        self._update(status=status, exit_code=exit_code, error=error, finished_at=_now(), **peaks)
        self.log(f"run {status}", exit_code=exit_code)

    def _is_finished(self, name: str, key: str) -> bool:
        stage = self.record.stages.get(name)
        if stage is None or stage.status not in ("complete", "partial") or stage.key != key:
            return False
        return all(
            (self.run_dir / file).is_file() and file_sha256(self.run_dir / file) == sha256
            for file, sha256 in stage.outputs.items()
        )

    def _was_stopped(self, name: str, key: str) -> bool:
        # "running" is what a kill -9 leaves behind.
        stage = self.record.stages.get(name)
        return stage is not None and stage.key == key and stage.status in ("running", "failed", "interrupted")

    def _put_aside(self, path: Path) -> None:
        """Move what another recipe, or other inputs, left here: nothing is overwritten."""
        target = _history_place(self.run_dir, path.name)
        path.rename(target)
        self.log("older results kept", moved=path.name, to=target.relative_to(self.run_dir).as_posix())

    def _put_stage(self, name: str, stage: StageRecord) -> None:
        self._update(stages={**self.record.stages, name: stage})

    def _update(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        write_json_atomic(self.run_dir / RECORD_NAME, self.record.model_dump(mode="json"))


@contextmanager
def open_run(
    run_dir: Path,
    *,
    name: str,
    recipe: Mapping[str, Any],
    overrides: Sequence[str],
    device: str,
    provenance: Mapping[str, Any],
    fork: bool = False,
) -> Iterator[RunFolder]:
    """Lock a run folder and start or continue its run.

    Args:
        run_dir: The folder; made if missing.
        name: Name of the experiment.
        recipe: The resolved recipe, as JSON values.
        overrides: The `--set` options that went into it.
        device: Where tensors live.
        provenance: `versions` and `git_commit`.
        fork: Accept a recipe other than the recorded one: what it changes is done again, and the old record
            goes to `history/` with the old results.

    Raises:
        UsageError: If the folder is used by another process, holds something else, or holds another recipe.
    """
    _refuse_foreign_folder(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with lock_folder(run_dir):
        earlier = read_run(run_dir) if (run_dir / RECORD_NAME).exists() else None
        stages = earlier.stages if earlier else {}
        same: dict[str, Any] = {}
        if earlier and (changes := diff_fields(earlier.recipe, recipe)):
            if not fork:
                raise UsageError(_refusal(run_dir, changes))
            write_json_atomic(_history_place(run_dir, RECORD_NAME), earlier.model_dump(mode="json"))
        elif earlier:
            # A run that continues stays one run: its first start, its options, its highest peaks.
            same = earlier.model_dump(include={"started_at", "overrides", *_PEAKS})
        record = RunRecord(
            name=name,
            status="running",
            recipe=dict(recipe),
            device=device,
            stages=stages,
            **{"started_at": _now(), "overrides": tuple(overrides), **same, **provenance},
        )
        run = RunFolder(run_dir, record)
        write_text_atomic(
            run_dir / "recipe.yaml", yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        )
        run._update()
        run.log("run started" if earlier is None else "run continued", device=device)
        yield run


def read_run(run_dir: Path) -> RunRecord:
    """Read run.json.

    Raises:
        UsageError: If the folder has none, or it is not one of ours.
    """
    record_file = run_dir / RECORD_NAME
    try:
        return RunRecord.model_validate_json(record_file.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{run_dir}: not a run folder (it has no {RECORD_NAME}); give the --out of a run"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "(whole file)"
        raise UsageError(
            f"{record_file}: {field}: {first['msg']}; was it edited? choose a new --out"
        ) from error


@contextmanager
def lock_folder(folder: Path, lock_name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a lock on a folder; it is freed when the process ends, however it ends.

    Raises:
        UsageError: If another process holds it, naming that process.
    """
    lock_file = folder / lock_name
    with lock_file.open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise UsageError(
                f"{folder}: in use by process {pid}; wait until it ends, or choose another --out"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def write_crash_file(run_dir: Path, error: BaseException) -> Path:
    """Write the traceback of a defect into the run folder, and return the file."""
    crash_file = run_dir / "crash.txt"
    write_text_atomic(crash_file, "".join(traceback.format_exception(error)))
    return crash_file


def _refuse_foreign_folder(run_dir: Path) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise UsageError(f"{run_dir}: is a file; --out must be a folder")
    ours = (RECORD_NAME, LOCK_NAME)
    if run_dir.is_dir() and any(run_dir.iterdir()) and not any((run_dir / name).exists() for name in ours):
        raise UsageError(f"{run_dir}: not empty and not a run folder; choose a new --out")


def _refusal(run_dir: Path, changes: Sequence[str]) -> str:
    shown = [f"  {change}" for change in changes[:8]]
    if len(changes) > len(shown):
        shown.append(f"  and {len(changes) - len(shown)} more")
    what = (
        f"{run_dir}: holds a run of another recipe; choose a new --out, or add --fork to redo what changed:"
    )
    return "\n".join([what, *shown])


def _history_place(run_dir: Path, name: str) -> Path:
    history_dir = run_dir / "history"
    history_dir.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in history_dir.iterdir())
    return history_dir / f"{number:03}-{name}"


def _content_key(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
