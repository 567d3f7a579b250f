"""AdaptVis: the model's own confidence chooses between smoothing and sharpening."""

import logging
from dataclasses import dataclass
from functools import cache

import torch

from adaptvis_plugin.decoding.method import Method, check_alpha, check_threshold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptVis(Method):
    """Smooth the attention to the image where the model is unsure, sharpen it where it is sure.

    Chen et al., "Why Is Spatial Reasoning Hard for VLMs?", ICML 2025 (arXiv 2503.01773), section 5.

    Attributes:
        alpha_low: coefficient of rows whose confidence is below the threshold (below 1 smooths).
        alpha_high: coefficient of the other rows (above 1 sharpens).
        threshold: a probability in [0, 1].

    The confidence is rounded to two decimals for the comparison, and only for it, as in the authors' code.
    """

    alpha_low: float
    alpha_high: float
    threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_low > self.alpha_high:
            _warn_of_reversed(self.alpha_low, self.alpha_high)

    @classmethod
    def check(cls, name: str, value: float) -> None:
        """Raise ValueError unless the value is a coefficient or, for the threshold, a probability."""
        (check_threshold if name == "threshold" else check_alpha)(name, value)

    def choose(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return alpha_low where round(confidence, 2) < threshold, else alpha_high; shape (batch,)."""
        # In double: fp32 holds neither 0.35 nor a confidence rounded to it exactly, and the two would be compared.
        unsure = confidence.double().round(decimals=2) < self.threshold
        return torch.full_like(confidence, self.alpha_high).masked_fill(unsure, self.alpha_low)


@cache
def _warn_of_reversed(alpha_low: float, alpha_high: float) -> None:
    """Once for a pair of values: a method is made anew for every row. Not by `warnings`, which lmms-eval turns off."""
    log.warning(
        "alpha_low=%s is above alpha_high=%s: alpha_low is used where the model is unsure, and AdaptVis means those "
        "rows to be the smoothed ones; swap the two unless this is what you want",
        alpha_low,
        alpha_high,
    )
