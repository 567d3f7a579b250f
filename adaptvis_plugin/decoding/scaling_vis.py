"""ScalingVis: one coefficient for every question."""

from dataclasses import dataclass
from typing import Any

import torch

from adaptvis_plugin.decoding.method import Method, check_alpha


@dataclass(frozen=True)
class ScalingVis(Method):
    """Multiply the attention logits on the image by one fixed coefficient.

    Chen et al., "Why Is Spatial Reasoning Hard for VLMs?", ICML 2025 (arXiv 2503.01773), section 4.

    Attributes:
        alpha: The coefficient. Below 1 smooths, above 1 sharpens, 1 leaves every row unsteered.
    """

    alpha: float

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a coefficient."""
        check_alpha(name, value)

    def choose(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return alpha for every row, shape (batch,)."""
        return torch.full_like(confidence, self.alpha)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The one coefficient."""
        return (self.alpha,)
