"""VCD: less of what the model would say of a noised image."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.method import FixedStrength, check_not_negative, check_share, check_whole
from adaptvis_plugin.decoding.methods.contrast import contrasted
from adaptvis_plugin.decoding.parts import NoisedImage, SecondStream


@dataclass(frozen=True)
class VCD(FixedStrength):
    """Subtract alpha times the logits under a noised image from 1 + alpha times those under the image.

    Leng et al., "Mitigating Object Hallucinations through Visual Contrastive Decoding", CVPR 2024 (arXiv 2311.16922).

    Attributes:
        alpha: The strength; 0 leaves the model as it is.
        beta: Tokens below beta times the likeliest one's probability are ruled out.
        step: How much noise: the step of the diffusion, from 0 to 999.
        seed: The noise of a row depends on it and on the row alone.
    """

    attention = None
    strength: ClassVar[str] = "alpha"
    neutral: ClassVar[float] = 0.0

    alpha: float = 1.0
    beta: float = 0.2
    step: int = 500
    seed: int = 0

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        if name == "alpha":
            check_not_negative(name, value)
        elif name == "beta":
            check_share(name, value)
        else:
            check_whole(name, value, 0, 999 if name == "step" else 2**63 - 1)

    @property
    def second(self) -> SecondStream:
        """The noised image."""
        return SecondStream(NoisedImage(self.step, self.seed), self._mix)

    def _mix(self, own: torch.Tensor, view: torch.Tensor, alpha: torch.Tensor, step: int) -> torch.Tensor:
        return contrasted(own, view, alpha, self.beta)
