"""Plain greedy decoding."""

from dataclasses import dataclass

import torch

from adaptvis_plugin.decoding.method import Method


@dataclass(frozen=True)
class Baseline(Method):
    """The plain model: alpha = 1 for every row."""

    def choose(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return ones, shape (batch,)."""
        return torch.ones_like(confidence)

    @property
    def is_plain(self) -> bool:
        """Always."""
        return True
