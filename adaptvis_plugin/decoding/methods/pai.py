"""PAI: more attention to the image for every answer token, and less of what the model would say without it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.method import (
    PLACES,
    FixedStrength,
    check_finite,
    check_not_negative,
    check_place,
    check_share,
)
from adaptvis_plugin.decoding.mixing import plausible
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns, NoImage, SecondStream


@dataclass(frozen=True)
class PAI(FixedStrength):
    """Raise the attention logits on the image by alpha times their absolute value, in the last row of every step.

    Liu et al., "Paying More Attention to Image", ECCV 2024 (arXiv 2407.21771). With gamma above 1, log-probabilities
    move away from those of the question without its image: gamma (log p - log p') + log p' (classifier-free guidance).

    Attributes:
        alpha: The strength; 0 leaves attention as it is.
        gamma: The guidance; 1 leaves it out, and with it the second stream. The authors use 1.1.
        beta: With guidance, tokens below beta times the likeliest one's probability are ruled out.
        layers: See `ScalingVis`; by default the published 2-31 of 32.
        heads: See `ScalingVis`.
    """

    strength: ClassVar[str] = "alpha"
    neutral: ClassVar[float] = 0.0
    published: ClassVar[Heads] = Heads(frozenset(range(2, 32)), depth=32)

    alpha: float = 0.2
    gamma: float = field(default=1.0, kw_only=True)
    beta: float = field(default=0.1, kw_only=True)
    layers: Any = field(default=None, kw_only=True)
    heads: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        if name in PLACES:
            check_place(name, value)
        elif name == "beta":
            check_share(name, value)
        elif name == "gamma":
            check_finite(name, value)
            if value < 1:
                raise ValueError(f"gamma={value!r}: give a number of at least 1, which leaves guidance out")
        else:
            check_not_negative(name, value)

    @property
    def attention(self) -> AttentionEdit:
        """The raised logits."""
        return AttentionEdit(raised, every_step=True, heads=self.steered)

    @property
    def second(self) -> SecondStream | None:
        """The question without its image, if there is guidance."""
        return None if self.gamma == 1 else SecondStream(NoImage(), self._guided)

    def _guided(self, own: torch.Tensor, view: torch.Tensor, strength: torch.Tensor, step: int) -> torch.Tensor:
        own, view = own.log_softmax(-1), view.log_softmax(-1)
        return plausible(self.gamma * (own - view) + view, own, self.beta)


def raised(logits: torch.Tensor, columns: Columns, alpha: torch.Tensor) -> torch.Tensor:
    """Return attention logits x as x + alpha |x| on the image."""
    return logits + torch.where(columns.image, alpha, 0.0) * logits.abs()
