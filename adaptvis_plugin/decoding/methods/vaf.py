"""VAF: the text after the image looks more at the image, and less at what stands before it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.method import PLACES, FixedStrength, check_alpha, check_place
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns


@dataclass(frozen=True)
class VAF(FixedStrength):
    """Multiply the attention logits on the image, and those on what stands before it, in all rows after the image.

    Yin et al., "ClearSight", CVPR 2025 (arXiv 2503.13107): visual amplification fusion.

    Attributes:
        enhancement: The factor on the image; 1 leaves all as it is.
        suppression: The factor on everything before the image, such as the system prompt.
        layers: See `ScalingVis`; by default the published 9-14 of 32.
        heads: See `ScalingVis`.
    """

    strength: ClassVar[str] = "enhancement"
    published: ClassVar[Heads] = Heads(frozenset(range(9, 15)), depth=32)

    enhancement: float = 1.15
    suppression: float = 0.95
    layers: Any = field(default=None, kw_only=True)
    heads: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a coefficient or, for layers and heads, names some."""
        (check_place if name in PLACES else check_alpha)(name, value)

    @property
    def attention(self) -> AttentionEdit:
        """The two factors."""
        return AttentionEdit(self._balanced, rows="after the image", every_step=True, heads=self.steered)

    def _balanced(self, logits: torch.Tensor, columns: Columns, enhancement: torch.Tensor) -> torch.Tensor:
        before = torch.where(columns.before & (enhancement != 1), self.suppression, 1.0)
        return logits * torch.where(columns.image, enhancement, before)
