"""AdaptVis: the model's confidence chooses between smoothing and sharpening."""

import logging
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from adaptvis_plugin.decoding.method import PLACES, Method, check_alpha, check_place, check_threshold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptVis(Method):
    """Smooth the attention to the image where the model is unsure, sharpen it where it is sure.

    Chen et al., "Why Is Spatial Reasoning Hard for VLMs?", ICML 2025 (arXiv 2503.01773), section 5.

    Attributes:
        alpha_low: The coefficient of rows with a confidence below the threshold (below 1 smooths).
        alpha_high: The coefficient of the other rows (above 1 sharpens).
        threshold: A probability in [0, 1].
        layers: See `ScalingVis`.
        heads: See `ScalingVis`.

    As in the authors' code, the confidence is rounded to two decimals for the comparison, and only for it.
    """

    alpha_low: float
    alpha_high: float
    threshold: float
    layers: Any = field(default=None, kw_only=True)
    heads: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_low > self.alpha_high:
            _warn_of_reversed(self.alpha_low, self.alpha_high)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a coefficient, a probability (threshold), or names layers or heads."""
        if name in PLACES:
            check_place(name, value)
        else:
            (check_threshold if name == "threshold" else check_alpha)(name, value)

    def choose(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return alpha_low where round(confidence, 2) < threshold, else alpha_high; shape (batch,)."""
        # In double, because fp32 holds neither 0.35 nor a confidence rounded to it exactly. Apple's MPS has no double,
        # so there it is done on the CPU.
        exact = confidence.cpu() if confidence.device.type == "mps" else confidence
        unsure = exact.double().round(decimals=2) < self.threshold
        return torch.full_like(exact, self.alpha_high).masked_fill(unsure, self.alpha_low).to(confidence)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The two coefficients."""
        return (self.alpha_low, self.alpha_high)


@cache
def _warn_of_reversed(alpha_low: float, alpha_high: float) -> None:
    """Warn once for a pair of values, because a method is created for every row."""
    # Not through `warnings`, which lmms-eval turns off.
    log.warning(
        "alpha_low=%s is above alpha_high=%s: alpha_low is used where the model is unsure, and AdaptVis is meant to "
        "smooth those rows; swap the two unless this is what you want",
        alpha_low,
        alpha_high,
    )
