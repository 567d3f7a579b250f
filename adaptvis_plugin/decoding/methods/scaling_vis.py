"""ScalingVis: one coefficient for every question."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptvis_plugin.decoding.method import PLACES, FixedStrength, check_alpha, check_place


@dataclass(frozen=True)
class ScalingVis(FixedStrength):
    """Multiply the attention logits on the image by one fixed coefficient.

    Chen et al., "Why Is Spatial Reasoning Hard for VLMs?", ICML 2025 (arXiv 2503.01773), section 4.

    Attributes:
        alpha: The coefficient. Below 1 smooths, above 1 sharpens, 1 leaves every row unsteered.
        layers: The layers that are steered, as 14, `14-18+22` or a list. By default all of them, as in the paper.
        heads: Single heads that are steered, as `L17H3+L17H5` or a list. By default all of them.
    """

    strength: ClassVar[str] = "alpha"

    alpha: float
    layers: Any = field(default=None, kw_only=True)
    heads: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a coefficient or, for layers and heads, names some."""
        (check_place if name in PLACES else check_alpha)(name, value)
