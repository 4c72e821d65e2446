"""Importers: from the layouts in which image collections come to one data set format."""

from medgen_data.importers.ham10000 import DIAGNOSES
from medgen_data.importers.run import ImportKind, ImportRun, ImportSettings, import_dataset

__all__ = ["DIAGNOSES", "ImportKind", "ImportRun", "ImportSettings", "import_dataset"]
