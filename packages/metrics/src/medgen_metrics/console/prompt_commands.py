"""Commands that look at prompts one by one: their scores, and what experts thought; heavy imports are inside."""

import argparse

from medgen_metrics.console.commands import image_settings, sixteen_bit_range, words
from medgen_metrics.console.failures import OK, PARTIAL, UsageErrors
from medgen_metrics.console.output import Progress, print_result
from medgen_metrics.console.prompt_output import prompt_lines, rank_lines


def prompts(options: argparse.Namespace) -> int:
    """Score the images of each prompt."""
    from medgen_metrics.features.loading import check_extractor_name
    from medgen_metrics.prompt_files import read_prompt_file
    from medgen_metrics.prompt_sheet import PromptConfig, score_prompt_files, write_prompt_sheet

    wanted = {"seed": options.seed, **image_settings(options)}
    objectives = read_prompt_file(options.prompts)
    files = [file for one in objectives for file in (*one.original, *one.rephrased, *one.real)]
    with UsageErrors():
        check_extractor_name(options.extractor)
        config = PromptConfig(
            extractor=options.extractor,
            protocol=options.protocol,
            sixteen_bit_range=sixteen_bit_range(options, files),
            **{name: value for name, value in wanted.items() if value is not None},
        )
    with Progress("images") as progress:
        sheet = score_prompt_files(
            objectives,
            config,
            features_dir=options.features_dir,
            device=options.device,
            on_progress=progress,
        )
    if options.out is not None:
        write_prompt_sheet(options.out, sheet)
    print_result(sheet.to_json(), prompt_lines(sheet), as_json=options.json)
    return PARTIAL if sheet.not_computed else OK


def ranks(options: argparse.Namespace) -> int:
    """Compare metrics with the ranks of experts."""
    from medgen_metrics.rank_files import read_rank_table, read_score_table
    from medgen_metrics.rank_sheet import agreement_with_ranks, write_rank_sheet

    metrics = () if options.metrics is None else words(options.metrics)
    scores = read_score_table(options.scores, metrics=metrics)
    sheet = agreement_with_ranks(scores, read_rank_table(options.ranks), seed=options.seed)
    if options.out is not None:
        write_rank_sheet(options.out, sheet)
    print_result(sheet.to_json(), rank_lines(sheet), as_json=options.json)
    return PARTIAL if sheet.not_computed else OK
