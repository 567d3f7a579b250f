"""The data sets as one table, their sources, and the authors' split. Knows no model and no framework."""

from adaptvis_plugin.data.splits import authors_split

__all__ = ["authors_split"]
