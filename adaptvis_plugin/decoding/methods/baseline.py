"""Baseline: greedy decoding without steering."""

from dataclasses import dataclass

from adaptvis_plugin.decoding.method import FixedStrength


@dataclass(frozen=True)
class Baseline(FixedStrength):
    """Leave every row unsteered: alpha = 1."""
