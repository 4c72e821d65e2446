"""The command line `medgen-metrics`: score, extract, audit, prompts, ranks.

Results go to stdout, everything else to stderr. With --json stdout is one JSON object, in success and in failure.
Exit codes agree with those of the `medgen` command line. Nothing here imports torch before it is needed.
"""

from medgen_metrics.console.parser import main

__all__ = ["main"]
