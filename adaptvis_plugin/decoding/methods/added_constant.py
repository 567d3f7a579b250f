"""AddedConstant: the paper's control, more attention to the image and nothing else."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.method import FixedStrength, check_finite
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns


@dataclass(frozen=True)
class AddedConstant(FixedStrength):
    """Add one constant to the attention logits on the image, in every row of the prompt.

    Chen et al., "Why Is Spatial Reasoning Hard for VLMs?", ICML 2025 (arXiv 2503.01773), section 3, where it does not
    help: it gives the image more attention everywhere, and leaves its distribution over the image as it is. Every
    hidden state of the prompt depends on the constant, so it takes a complete pass of its own.

    Attributes:
        constant: What is added, in logits. Each image token then gets exp(constant) times the attention that it had, in
            relation to any text token. 0 leaves the model as it is.
    """

    neutral: ClassVar[float] = 0.0

    constant: float

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a finite number."""
        check_finite(name, value)

    @property
    def fixed(self) -> float:
        """One; zero if nothing is added."""
        return float(self.constant != 0)

    @property
    def attention(self) -> AttentionEdit:
        """The constant in all rows of the prompt."""

        def added(logits: torch.Tensor, columns: Columns, strength: torch.Tensor) -> torch.Tensor:
            return logits + strength * self.constant * columns.image

        return AttentionEdit(added, rows="all")
