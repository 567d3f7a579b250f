"""DoLa: what the last layer adds to an earlier one."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.first_token import jensen_shannon
from adaptvis_plugin.decoding.method import FixedStrength, check_place, check_share
from adaptvis_plugin.decoding.mixing import plausible
from adaptvis_plugin.decoding.parts import EarlyExits


@dataclass(frozen=True)
class DoLa(FixedStrength):
    """Subtract the log-probabilities of the early exit that differs most from the last layer.

    Chuang et al., "DoLa: Decoding by Contrasting Layers", ICLR 2024 (arXiv 2309.03883). The exit is chosen for each row
    and token: the one with the largest Jensen-Shannon divergence from the last layer.

    Attributes:
        beta: Tokens below beta times the likeliest one's probability are ruled out; 1 leaves the model's own choice.
        layers: The exits, as 16 or `16+18+20`, each after so many layers; 0 is the embeddings. By default the published
            16, 18, ... 30 of 32.
    """

    attention = None
    neutral: ClassVar[float] = 0.0

    beta: float = 0.1
    layers: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        (check_share if name == "beta" else check_place)(name, value)

    @property
    def exits(self) -> EarlyExits:
        """The exits."""
        return EarlyExits.of(self.layers, range(16, 32, 2), self._mix)

    def _mix(self, own: torch.Tensor, exits: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        own, exits = own.log_softmax(-1), exits.log_softmax(-1)
        furthest = jensen_shannon(own[:, None], exits).argmax(-1)
        rows = torch.arange(len(own), device=own.device)
        return plausible(own - exits[rows, furthest.to(own.device)], own, self.beta)
