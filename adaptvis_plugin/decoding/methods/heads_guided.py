"""HeadsGuided: where the heads of a layer look at the image on average, every head looks more."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.method import PLACES, FixedStrength, check_not_negative, check_place
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns


@dataclass(frozen=True)
class HeadsGuided(FixedStrength):
    """Raise the attention logits on the image by alpha times the heads' mean absolute value, in every step's last row.

    Jiang et al., "Devils in Middle Layers of Large Vision-Language Models", CVPR 2025 (arXiv 2411.16724).

    Attributes:
        alpha: The strength; 0 leaves attention as it is.
        layers: See `ScalingVis`; by default the published 5-18 of 32.
        heads: See `ScalingVis`; the mean is over all heads of the layer all the same.
    """

    strength: ClassVar[str] = "alpha"
    neutral: ClassVar[float] = 0.0
    published: ClassVar[Heads] = Heads(frozenset(range(5, 19)), depth=32)

    alpha: float = 0.5
    layers: Any = field(default=None, kw_only=True)
    heads: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a number of at least 0 or, for layers and heads, names some."""
        (check_place if name in PLACES else check_not_negative)(name, value)

    @property
    def attention(self) -> AttentionEdit:
        """The raised logits."""
        return AttentionEdit(raised, every_step=True, heads=self.steered)


def raised(logits: torch.Tensor, columns: Columns, alpha: torch.Tensor) -> torch.Tensor:
    """Return attention logits x as x + alpha times the mean of |x| over the heads, on the image."""
    return logits + torch.where(columns.image, alpha, 0.0) * logits.abs().mean(1, keepdim=True)
