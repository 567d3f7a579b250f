"""M3ID: the longer the answer, the less of what the model would say without the image."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.method import FixedStrength, check_not_negative, check_share
from adaptvis_plugin.decoding.mixing import plausible
from adaptvis_plugin.decoding.parts import NoImage, SecondStream


@dataclass(frozen=True)
class M3ID(FixedStrength):
    """Add (1 - g) / g times what the image changes in the logits, g = exp(-forgetting t) for the answer's token t.

    Favero et al., "Multi-Modal Hallucination Control by Visual Information Grounding", CVPR 2024 (arXiv 2403.14003).
    The first token is that of the model itself, because g is 1 there: answers of one token never change.

    Attributes:
        forgetting: The rate at which the model is taken to forget the image; 0 leaves the model as it is.
        beta: Tokens below beta times the likeliest one's probability are ruled out.
    """

    attention = None
    strength: ClassVar[str] = "forgetting"
    neutral: ClassVar[float] = 0.0

    forgetting: float = 0.02
    beta: float = field(default=0.1, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        (check_share if name == "beta" else check_not_negative)(name, value)

    @property
    def second(self) -> SecondStream:
        """The question without its image."""
        return SecondStream(NoImage(), self._mix)

    def _mix(self, own: torch.Tensor, view: torch.Tensor, forgetting: torch.Tensor, step: int) -> torch.Tensor:
        # (1 - g) / g, without a small difference of large numbers.
        return plausible(own + torch.expm1(forgetting * step) * (own - view), own, self.beta)
