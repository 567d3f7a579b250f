"""DeCo: an earlier layer that is sure of one of the likely tokens adds its logits."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.method import FixedStrength, check_not_negative, check_place, check_share, check_whole
from adaptvis_plugin.decoding.parts import EarlyExits


@dataclass(frozen=True)
class DeCo(FixedStrength):
    """Add alpha p times the logits of the early exit that gives one of the likely tokens the largest probability p.

    Wang et al., "MLLM Can See? Dynamic Correction Decoding for Hallucination Mitigation", ICLR 2025 (arXiv 2410.11779).
    The likely tokens are the model's `top_k` likeliest, of which as few as make up `top_p`; all others are ruled out.

    Attributes:
        alpha: The strength; 0 leaves the model as it is.
        top_p: The probability that the likely tokens make up.
        top_k: The most of them.
        layers: The exits; see `DoLa`. By default the published 20-28 of 32.
    """

    attention = None
    strength: ClassVar[str] = "alpha"
    neutral: ClassVar[float] = 0.0

    alpha: float = 0.6
    top_p: float = field(default=0.9, kw_only=True)
    top_k: int = field(default=20, kw_only=True)
    layers: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        if name == "top_k":
            check_whole(name, value, 1, 10**9)
        elif name == "layers":
            check_place(name, value)
        else:
            (check_share if name == "top_p" else check_not_negative)(name, value)

    @property
    def exits(self) -> EarlyExits:
        """The exits."""
        return EarlyExits.of(self.layers, range(20, 29), self._mix)

    def _mix(self, own: torch.Tensor, exits: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        top = own.softmax(-1).topk(min(self.top_k, own.shape[-1]))
        # A token belongs to them if those before it do not make up `top_p` yet.
        likely = top.values.cumsum(-1) - top.values < self.top_p
        likely[:, 0] = True
        each = exits.softmax(-1).gather(-1, top.indices[:, None].expand(-1, exits.shape[1], -1))
        surest = each.masked_fill(~likely[:, None], -1).amax(-1)
        p, exit_ = surest.max(-1)
        added = exits[torch.arange(len(own), device=own.device), exit_]
        ruled_out = torch.ones_like(own, dtype=torch.bool).scatter(-1, top.indices, ~likely)
        return (own + alpha * p[:, None] * added).masked_fill(ruled_out, -torch.inf)
