"""SLA: the last layers before the final one have a say in the logits."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.method import FixedStrength, check_place, check_share
from adaptvis_plugin.decoding.parts import EarlyExits


@dataclass(frozen=True)
class SLA(FixedStrength):
    """Mix the mean logits of the last early exits into the logits: (1 - gamma) l + gamma mean(l_k).

    Li et al., "The Hidden Life of Tokens" (VISTA), ICML 2025 (arXiv 2502.03628): self-logits augmentation, without
    VISTA's steering vectors.

    Attributes:
        gamma: The strength, from 0, which leaves the model as it is, to 1.
        layers: The exits; see `DoLa`. By default the published 26-31 of 32.
    """

    attention = None
    strength: ClassVar[str] = "gamma"
    neutral: ClassVar[float] = 0.0

    gamma: float = 0.3
    layers: Any = field(default=None, kw_only=True)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        (check_place if name == "layers" else check_share)(name, value)

    @property
    def exits(self) -> EarlyExits:
        """The exits."""
        return EarlyExits.of(self.layers, range(26, 32), _mix)


def _mix(own: torch.Tensor, exits: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    return (1 - gamma) * own + gamma * exits.mean(1)
