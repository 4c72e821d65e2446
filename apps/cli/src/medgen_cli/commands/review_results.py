"""`medgen review stats` and `medgen review power`: what ratings mean, and what a study will be able to find."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from medgen_cli.commands.options import AsJson
from medgen_cli.errors import UsageError
from medgen_cli.output import print_note, print_result, table

_Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed.")]


def stats(
    ratings: Annotated[Path, typer.Argument(metavar="RATINGS", help="ratings.jsonl, as exported.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    study: Annotated[
        Path | None, typer.Option("--study", help="The study file: title and names of the aspects.")
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--scores", metavar="MODEL=FILE", help="scores.json of a model, or of `real`; may be given again."
        ),
    ] = None,
    score_table: Annotated[
        Path | None, typer.Option("--score-table", metavar="CSV", help="Columns prompt, item, and scores.")
    ] = None,
    seed: _Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what the ratings mean: statistics.json, results.html and figures.

    Means with intervals, tests between models, ranks against automatic scores, agreement between and within
    raters.
    """
    from medgen_review.rating_files import read_ratings
    from medgen_review.stats import review_stats, write_statistics
    from medgen_review.study import read_study

    from medgen_cli.stages.review import given_scores

    content = None if study is None else read_study(study)
    found = review_stats(
        read_ratings(ratings),
        scores=given_scores(scores or [], score_table),
        seed=seed,
        aspect_names={aspect.key: aspect.name for aspect in content.aspects} if content else None,
    )
    written = write_statistics(found, out, study=content)
    overall = [each for each in found.means if each.aspect == "overall"]
    rows = [
        [
            each.item,
            "none" if each.mean.value is None else f"{each.mean.value:.2f}",
            "{:.2f} to {:.2f}".format(*each.mean.interval) if each.mean.interval else "none",
        ]
        for each in overall
    ]
    for warning in found.warnings:
        print_note(f"note: {warning}")
    lines = [*table(rows, header=["model", "mean rating", "95% interval"]), f"written to {written[-1]}"]
    print_result(found.to_json(), as_json=as_json, lines=lines)


def power(
    num_raters: Annotated[int, typer.Option("--raters", min=1, help="Raters, who rate all prompts.")] = 3,
    num_prompts: Annotated[int, typer.Option("--prompts", min=3, help="Prompts.")] = 40,
    num_models: Annotated[int, typer.Option("--models", min=2, help="Models; each two are compared.")] = 3,
    difference: Annotated[
        float | None, typer.Option("--difference", help="True difference of two models in points.")
    ] = None,
    prompt_deviation: Annotated[
        float, typer.Option("--prompt-deviation", min=0, help="Of the difference between prompts, in points.")
    ] = 1.0,
    noise_deviation: Annotated[
        float, typer.Option("--noise-deviation", min=0, help="Of one rater's difference on one prompt.")
    ] = 2.0,
    pilot: Annotated[
        Path | None,
        typer.Option("--pilot", metavar="RATINGS", help="Take the deviations from these ratings instead."),
    ] = None,
    wanted: Annotated[float, typer.Option("--power", help="Wanted probability to find a difference.")] = 0.8,
    alpha: Annotated[float, typer.Option("--alpha", help="Level of all comparisons together.")] = 0.05,
    simulate: Annotated[
        int, typer.Option("--simulate", min=0, help="Also simulate so many studies with --difference.")
    ] = 0,
    seed: _Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Estimate, before a study, what it will be able to find."""
    from medgen_review.statistics.power import Spread, detectable_difference, power_of, simulated_power

    if simulate and difference is None:
        raise UsageError("--simulate needs --difference")
    spread = Spread(prompt_deviation, noise_deviation) if pilot is None else _spread_of(pilot)
    design: dict[str, Any] = {
        "num_raters": num_raters,
        "num_prompts": num_prompts,
        "alpha": alpha,
        "num_comparisons": num_models * (num_models - 1) // 2,
    }
    try:
        smallest = detectable_difference(spread, power=wanted, **design)
        found = None if difference is None else power_of(difference, spread, **design)
        simulated = None
        if difference is not None and simulate:
            simulated = simulated_power(difference, spread, seed=seed, num_trials=simulate, **design)
    except ValueError as error:
        raise UsageError(str(error)) from error
    lines = [
        f"{num_raters} raters x {num_prompts} prompts find a difference of {smallest:.2f} points "
        f"(d = {smallest / spread.single():.2f}) between two of {num_models} models in {wanted:.0%} of studies",
        f"deviations: {spread.prompt_deviation:.2f} between prompts, {spread.noise_deviation:.2f} of one rater"
        + ("" if pilot else " (assumed; take them from a pilot with --pilot)"),
    ]
    if found is not None:
        lines.append(f"a difference of {difference:g} points is found in {found:.0%} of studies")
    if simulated is not None:
        lines.append(f"in {simulate} simulated studies: {simulated:.1%}")
    result = {
        **design,
        **asdict(spread),
        "detectable_difference": smallest,
        "difference": difference,
        "power": found,
        "simulated_power": simulated,
    }
    print_result(result, as_json=as_json, lines=lines)


def _spread_of(pilot: Path) -> Any:
    from math import sqrt

    from medgen_review.rating_files import read_ratings
    from medgen_review.statistics.power import Spread, pilot_spread
    from medgen_review.statistics.tables import rating_table

    values = rating_table(read_ratings(pilot)).values
    spreads = [pilot_spread(aspect) for aspect in values]
    if not spreads:
        raise UsageError(f"{pilot}: holds no ratings")
    prompt, noise = (
        sqrt(sum(getattr(spread, name) ** 2 for spread in spreads) / len(spreads))
        for name in ("prompt_deviation", "noise_deviation")
    )
    return Spread(prompt, noise)
