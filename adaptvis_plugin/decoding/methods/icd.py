"""ICD: less of what the model would say under a disturbing instruction."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.method import FixedStrength, check_not_negative, check_share, check_text
from adaptvis_plugin.decoding.methods.contrast import contrasted
from adaptvis_plugin.decoding.parts import OtherQuestion, SecondStream


@dataclass(frozen=True)
class ICD(FixedStrength):
    """Subtract alpha times the logits under a disturbing instruction from 1 + alpha times those without it.

    Wang et al., "Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive Decoding",
    Findings of ACL 2024 (arXiv 2403.18715).

    Attributes:
        alpha: The strength; 0 leaves the model as it is.
        beta: Tokens below beta times the likeliest one's probability are ruled out.
        instruction: What is put before the question in the second stream; by default one of the authors'.
    """

    attention = None
    strength: ClassVar[str] = "alpha"
    neutral: ClassVar[float] = 0.0

    alpha: float = 1.0
    beta: float = 0.1
    instruction: str = "You are a confused objects detector to provide a fuzzy overview or impression of the image."

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of its hyper-parameter's."""
        if name == "instruction":
            check_text(name, value)
        else:
            (check_share if name == "beta" else check_not_negative)(name, value)

    @property
    def second(self) -> SecondStream:
        """The same image with the instruction before the question."""
        return SecondStream(OtherQuestion(lambda question: f"{self.instruction} {question}"), self._mix)

    def _mix(self, own: torch.Tensor, view: torch.Tensor, alpha: torch.Tensor, step: int) -> torch.Tensor:
        return contrasted(own, view, alpha, self.beta)
