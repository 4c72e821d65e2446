"""Finished runs side by side: runs that differ in their seed alone are one recipe, with mean and deviation."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medgen_cli.errors import UsageError
from medgen_cli.output import table
from medgen_cli.report.numbers import as_number, attribute_name, score_name
from medgen_cli.report.sheets import (
    Classification,
    Evaluation,
    PrivacyAudit,
    Recognition,
    ScoreFile,
    read_sheet,
)
from medgen_cli.run_folder import read_run

_FINISHED = ("complete", "partial")
_NOT_THE_RECIPE = ("name", "seed")  # what runs of one recipe may differ in
_EVALUATION_NAMES = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
}


@dataclass(frozen=True)
class Measured:
    """One figure of one run."""

    value: float
    basis: str  # what it was measured with; figures of another basis are on another scale
    num_images: tuple[int, ...]  # where the figure depends on them


@dataclass(frozen=True)
class FinishedRun:
    """What a run is compared by."""

    run_dir: Path
    seed: int
    recipe: Mapping[str, Any]  # dotted field -> value
    figures: Mapping[str, Measured]
    real_fingerprint: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Spread:
    """One figure over the runs of a recipe."""

    mean: float
    standard_deviation: float | None  # with n - 1; None for one run
    lowest: float
    highest: float
    num_runs: int


@dataclass(frozen=True)
class ComparedRecipe:
    """The runs of one recipe."""

    letter: str
    differs_in: Mapping[str, Any]  # its fields where the compared recipes differ
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    figures: Mapping[str, Spread]


@dataclass(frozen=True)
class Comparison:
    """All recipes, in the order in which they were first named."""

    recipes: tuple[ComparedRecipe, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Lay out the comparison for a human: a column a recipe."""
        fields = list(self.recipes[0].differs_in)
        names = list(dict.fromkeys(name for each in self.recipes for name in each.figures))
        rows = [
            ["seeds", *(", ".join(map(str, each.seeds)) for each in self.recipes)],
            *([field, *(_text(each.differs_in[field]) for each in self.recipes)] for field in fields),
            ["", *("" for _ in self.recipes)],
            *(
                [_title(name), *(_cell(each.figures.get(name), len(each.runs)) for each in self.recipes)]
                for name in names
            ),
        ]
        header = ["recipe (mean ± deviation over seeds)", *(each.letter for each in self.recipes)]
        warnings = [f"warning: {warning}" for warning in self.warnings]
        return [*table(rows, header=header), *([""] if warnings else []), *warnings]


def compare_runs(run_dirs: Sequence[Path]) -> Comparison:
    """Compare the figures of finished runs.

    A figure that was not measured in the same way in all runs is left out, and a warning says why.

    Args:
        run_dirs: Run folders, two or more.

    Raises:
        DataError: If a file of a run is malformed.
        UsageError: If there are fewer than two, one is no finished run, or two are the same experiment.
    """
    if len(run_dirs) < 2:
        raise UsageError("a comparison needs two runs or more; give several run folders")
    runs = [_finished_run(run_dir) for run_dir in run_dirs]
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        # A field that an older version did not know yet and one that is not set are the same.
        given = {field: value for field, value in run.recipe.items() if value is not None}
        groups.setdefault(json.dumps(given, sort_keys=True), []).append(run)
    for group in groups.values():
        _check_seeds(group)
    comparable, warnings = _comparable_figures(runs)
    differing = _differing_fields([group[0].recipe for group in groups.values()])
    compared = tuple(
        ComparedRecipe(
            letter=_letter(number),
            differs_in=differs_in,
            runs=tuple(str(run.run_dir) for run in group),
            seeds=tuple(run.seed for run in group),
            figures={
                name: _spread(values)
                for name in comparable
                if (values := [run.figures[name].value for run in group if name in run.figures])
            },
        )
        for number, (group, differs_in) in enumerate(zip(groups.values(), differing, strict=True))
    )
    return Comparison(compared, (*warnings, *_warnings_of_runs(runs)))


def _finished_run(run_dir: Path) -> FinishedRun:
    record = read_run(run_dir)
    if record.status not in _FINISHED:
        raise UsageError(f"{run_dir}: the run is {record.status}; finish it with medgen run, or leave it out")
    scores = read_sheet(run_dir / "scores" / "scores.json", ScoreFile)
    recipe = dict(_flat({key: value for key, value in record.recipe.items() if key not in _NOT_THE_RECIPE}))
    return FinishedRun(
        run_dir=run_dir,
        seed=int(record.recipe["seed"]),
        recipe=recipe,
        figures=dict(_figures(run_dir, scores)),
        real_fingerprint=scores.real_fingerprint if scores else None,
        versions=record.versions,
    )


def _figures(run_dir: Path, scores: ScoreFile | None) -> Iterator[tuple[str, Measured]]:
    for score in scores.overall if scores else ():
        if score.value is not None:
            made_by = f"{score.extractor.id} {score.extractor.sha256}"
            basis = ", ".join(filter(None, (made_by, score.preprocessing, score.estimator)))
            yield score.name, Measured(score.value, basis, (score.num_real, score.num_synthetic))
    audit = read_sheet(run_dir / "scores" / "privacy.json", PrivacyAudit)
    if audit is not None:
        spaces = ", ".join(f"{space.extractor.id} {space.extractor.sha256}" for space in audit.spaces)
        basis = f"{spaces} at {audit.false_positive_rate:g} false positives"
        yield "copy-rate", Measured(audit.copy_rate, basis, (audit.num_train, audit.num_synthetic))
    learnt = read_sheet(run_dir / "classify" / "classification.json", Classification)
    if learnt is not None:
        yield from _of_evaluation("learnt-from-real", learnt.real_only)
        yield from _of_evaluation("learnt-from-synthetic", learnt.synthetic_only)
    recognition = read_sheet(run_dir / "classify" / "recognition.json", Recognition)
    for attribute, judged in (recognition.root if recognition else {}).items():
        yield from _of_evaluation(f"recognised-{attribute}", judged.synthetic, names=("accuracy",))


def _of_evaluation(
    what: str, evaluation: Evaluation, names: Sequence[str] = tuple(_EVALUATION_NAMES)
) -> Iterator[tuple[str, Measured]]:
    for name in names:
        value = getattr(evaluation, name).value
        if value is not None:
            yield f"{what}/{name}", Measured(value, ", ".join(evaluation.classes), ())


def _comparable_figures(runs: Sequence[FinishedRun]) -> tuple[list[str], list[str]]:
    """Return the figures that are on one scale in all runs, and what is to be said of the others."""
    comparable, of_other_sizes, warnings = [], [], []
    for name in dict.fromkeys(name for run in runs for name in run.figures):
        having = [run for run in runs if name in run.figures]
        first = having[0]
        other = next((run for run in having if run.figures[name].basis != first.figures[name].basis), None)
        if other is not None:
            warnings.append(
                f"{name}: left out, measured in two ways: {first.figures[name].basis} in {first.run_dir}, "
                f"{other.figures[name].basis} in {other.run_dir}"
            )
            continue
        comparable.append(name)
        if len({run.figures[name].num_images for run in having}) > 1:
            of_other_sizes.append(name)
    if of_other_sizes:
        warnings.append(f"measured on other numbers of images in other runs: {', '.join(of_other_sizes)}")
    return comparable, warnings


def _warnings_of_runs(runs: Sequence[FinishedRun]) -> list[str]:
    warnings = []
    if len({run.real_fingerprint for run in runs if run.real_fingerprint}) > 1:
        warnings.append(
            "the real images differ between runs (a seed also splits the data): figures vary with them too"
        )
    for package in sorted({name for run in runs for name in run.versions}):
        found = dict.fromkeys(run.versions.get(package, "none") for run in runs)
        if len(found) > 1:
            warnings.append(f"runs were made with different versions of {package}: {', '.join(found)}")
    return warnings


def _check_seeds(group: Sequence[FinishedRun]) -> None:
    by_seed: dict[int, FinishedRun] = {}
    for run in group:
        if run.seed in by_seed:
            raise UsageError(
                f"{by_seed[run.seed].run_dir} and {run.run_dir} are one experiment: the same recipe and seed "
                f"{run.seed}; give one of them"
            )
        by_seed[run.seed] = run


def _spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, min(values), max(values), len(values))


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differing_fields(recipes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return, for each recipe, its values where the recipes differ.

    A section that some recipe does without is one field, `given` or None.
    """
    fields = dict.fromkeys(field for recipe in recipes for field in recipe)
    absent = [field for field in fields if any(other.startswith(f"{field}.") for other in fields)]
    whole = {
        field: next((each for each in absent if field.startswith(f"{each}.")), field) for field in fields
    }
    shown = [
        {
            name: "given" if name in absent and field != name else recipe[field]
            for field, name in whole.items()
            if field in recipe
        }
        for recipe in recipes
    ]
    differing = [
        name
        for name in dict.fromkeys(whole.values())
        if any(values.get(name) != shown[0].get(name) for values in shown)
    ]
    return [{name: values.get(name) for name in differing} for values in shown]


def _letter(number: int) -> str:
    """Name recipes A to Z, then AA, AB and so on."""
    before, place = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + place)


def _title(name: str) -> str:
    what, _, figure = name.partition("/")
    figure = _EVALUATION_NAMES.get(figure, figure)
    if what.startswith("learnt-from-"):
        return f"{figure}, learnt from {what.removeprefix('learnt-from-')} images"
    if what.startswith("recognised-"):
        return f"{figure}, {attribute_name(what.removeprefix('recognised-'))} of synthetic images"
    return score_name(name)


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _cell(spread: Spread | None, num_runs: int) -> str:
    """Print mean and deviation, and of how many runs where some lack the figure."""
    if spread is None:
        return "–"
    deviation = "" if spread.standard_deviation is None else f" ± {as_number(spread.standard_deviation)}"
    lacking = "" if spread.num_runs == num_runs else f" ({spread.num_runs} of {num_runs})"
    return f"{as_number(spread.mean)}{deviation}{lacking}"
