"""Baseline: greedy decoding without steering."""

from dataclasses import dataclass

import torch

from adaptvis_plugin.decoding.method import Method


@dataclass(frozen=True)
class Baseline(Method):
    """Leave every row unsteered: alpha = 1."""

    def choose(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return ones, shape (batch,)."""
        return torch.ones_like(confidence)

    @property
    def alphas(self) -> tuple[float, ...]:
        """One."""
        return (1.0,)
