"""AdaptVis: the model's confidence chooses between smoothing and sharpening."""

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from adaptvis_plugin.decoding.first_token import FirstToken
from adaptvis_plugin.decoding.gates import GATES, MOST, RANGES
from adaptvis_plugin.decoding.method import PLACES, Method, check_alpha, check_place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptVis(Method):
    """Smooth the attention to the image where the model is unsure, sharpen it where it is sure.

    Chen et al., "Why Is Spatial Reasoning Hard for VLMs?", ICML 2025 (arXiv 2503.01773), section 5.

    Attributes:
        alpha_low: The coefficient of rows with a confidence below the threshold (below 1 smooths).
        alpha_high: The coefficient of the other rows (above 1 sharpens).
        threshold: What the gate compares with: for the confidence, a probability in [0, 1].
        layers: See `ScalingVis`.
        heads: See `ScalingVis`.
        gate: What says that the model is unsure, one of `gates`; by default `confidence`, as in the paper.

    As in the authors' code, the confidence is rounded to two decimals for the comparison, and only for it.
    """

    alpha_low: float
    alpha_high: float
    threshold: float
    layers: Any = field(default=None, kw_only=True)
    heads: Any = field(default=None, kw_only=True)
    gate: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_low > self.alpha_high:
            _warn_of_reversed(self.alpha_low, self.alpha_high)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a coefficient, a threshold, or names a gate, layers or heads."""
        if name == "gate":
            if value is not None and value not in tuple(GATES):
                raise ValueError(f"gate={value!r}: give one of {', '.join(GATES)}")
        elif name in PLACES:
            check_place(name, value)
        else:
            (_check_threshold if name == "threshold" else check_alpha)(name, value)

    @classmethod
    def check_together(cls, values: Mapping[str, Any]) -> None:
        """Raise ValueError if the threshold is not one of the gate, or layers and heads are both named."""
        super().check_together(values)
        gate, threshold = values.get("gate") or "confidence", values.get("threshold")
        if threshold is not None and threshold > MOST.get(gate, threshold):
            raise ValueError(f"threshold={threshold!r}: {RANGES[gate]}, so give a value in [0, {MOST[gate]:g}]")

    def choose(self, first: FirstToken) -> torch.Tensor:
        """Return alpha_low where the gate says that the model is unsure, else alpha_high; shape (batch,)."""
        unsure = GATES[self.gate or "confidence"](first, self.threshold)
        high = torch.full(unsure.shape, self.alpha_high, dtype=torch.float32, device=unsure.device)
        return high.masked_fill(unsure, self.alpha_low)

    def check_offered(self, row: str, options: Collection[str]) -> None:
        """Raise ValueError if the gate needs options, and a row offers none."""
        if self.gate == "options" and not options:
            raise ValueError(f"{row} offers no options, and gate=options compares their probability; use another gate")

    @property
    def alphas(self) -> tuple[float, ...]:
        """The two coefficients."""
        return (self.alpha_low, self.alpha_high)


def _check_threshold(name: str, value: Any) -> None:
    """Raise ValueError unless the value is a finite number of at least 0; the gate may have a largest one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(
            f"{name}={value!r}: {RANGES['confidence']}, so give a value in [0, 1]; with gate=entropy one of at least 0"
        )


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
