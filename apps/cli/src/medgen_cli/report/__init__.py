"""The report of a run: one self-contained HTML page and its figures as JSON."""

from medgen_cli.report.render import build_report

__all__ = ["build_report"]
