"""The data sets as tables of one form, their sources, and the authors' split. Knows no model and no framework."""

from adaptvis_plugin.data.cache import DataError, Provenance
from adaptvis_plugin.data.splits import authors_split
from adaptvis_plugin.data.tables import load_table, prepare, status

__all__ = ["DataError", "Provenance", "authors_split", "load_table", "prepare", "status"]
