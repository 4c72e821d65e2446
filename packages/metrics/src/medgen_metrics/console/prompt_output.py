"""Tables of scores per prompt and of agreement with experts."""

from typing import TYPE_CHECKING

from medgen_metrics.console.output import number, table, warning_lines

if TYPE_CHECKING:
    from medgen_metrics.intervals import Estimate
    from medgen_metrics.prompt_sheet import PromptSheet
    from medgen_metrics.rank_sheet import RankSheet


def prompt_lines(sheet: "PromptSheet") -> list[str]:
    """Lay out the scores, Fidelity right above its ceiling, then each objective, then the warnings."""
    rows = [(name, *_cells(estimate)) for name, estimate in sheet.estimates.items()]
    scores = sheet.scores
    lines = [
        f"{len(scores.objectives)} objective(s), {sheet.num_synthetic} generated and {sheet.num_real} real images, "
        f"{sheet.extractor.id}, protocol {scores.protocol}",
        "",
        *table(("score", "value", "95% interval"), rows),
        "",
    ]
    objectives = [
        (
            row.objective.name,
            number(row.fidelity),
            " / ".join(number(distance) for distance in row.frechet),
            "-" if row.agreement is None else number(row.agreement),
            " / ".join(number(distance) for distance in row.diversity),
            str(row.num_real),
        )
        for row in scores.objectives
    ]
    header = ("objective", "fidelity", "frechet", "agreement", "diversity", "N real")
    lines += table(header, objectives)
    reasons = [f"not computed: {reason}" for reason in sheet.not_computed]
    return [*lines, *warning_lines([*sheet.warnings, *reasons])]


def rank_lines(sheet: "RankSheet") -> list[str]:
    """Lay out the correlations of each metric, then its mean for each rank, then the warnings."""
    correlations = [
        (
            metric,
            method,
            *_cells(agreement.correlation),
            number(agreement.pooled),
            f"{agreement.num_prompts - agreement.num_undefined} of {agreement.num_prompts}",
        )
        for metric, agreements in sheet.agreements.items()
        for method, agreement in agreements.items()
    ]
    tiers = [
        (metric, f"{tier.rank:g}", *_cells(tier.mean), str(tier.num_judgements))
        for metric, agreements in sheet.agreements.items()
        for tier in agreements["spearman"].tiers
    ]
    header = ("metric", "correlation", "mean over prompts", "95% interval", "pooled", "prompts")
    lines = [
        f"{sheet.num_judgements} judgement(s) of {sheet.num_raters} rater(s) on {sheet.num_prompts} prompt(s)",
        "",
        *table(header, correlations),
        "",
        *table(("metric", "rank", "mean", "95% interval", "judgements"), tiers),
        "",
        "+1: lower values go with better ranks; -1: higher values do",
    ]
    reasons = [f"not computed: {reason}" for reason in sheet.not_computed]
    return [*lines, *warning_lines([*sheet.warnings, *reasons])]


def _cells(estimate: "Estimate") -> tuple[str, str]:
    low, high = estimate.interval
    return number(estimate.value), f"{number(low)} to {number(high)}"
