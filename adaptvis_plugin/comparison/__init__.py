"""Runs of both frameworks and traces side by side: what may be compared, the figures, and the report."""

from adaptvis_plugin.comparison.runs import ComparisonError, Run

__all__ = ["ComparisonError", "Run"]
