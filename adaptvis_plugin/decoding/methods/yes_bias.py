"""YesBias: a control that says Yes where Yes and No are near a tie."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.first_token import FirstToken
from adaptvis_plugin.decoding.method import FixedStrength, check_share


@dataclass(frozen=True)
class YesBias(FixedStrength):
    """Say Yes as the first token if the probabilities of Yes and No differ by less than a margin.

    Yin et al., "The Mirage of Performance Gains", NeurIPS 2025 (arXiv 2504.10020): see `YesHint`. A row in which
    neither is likely is left as it is, so questions with other answers are too.

    Attributes:
        margin: The difference below which the answer is Yes; 0 leaves the model as it is.
        least: How likely Yes and No have to be together.
    """

    attention = None
    strength: ClassVar[str] = "margin"
    neutral: ClassVar[float] = 0.0
    words: ClassVar[tuple[str, ...]] = ("Yes", "No")

    margin: float = 0.5
    least: float = 0.2

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a number from 0 to 1."""
        check_share(name, value)

    def first_logits(self, first: FirstToken) -> torch.Tensor:
        """Return the logits with Yes above No where the two are near a tie."""
        logits, margin = first.logits.clone(), self.choose(first)
        p = logits.softmax(-1)
        for row, options in enumerate(first.options):
            yes, no = (p[row, list(options[word])] for word in self.words)
            if yes.sum() + no.sum() > self.least and (yes.sum() - no.sum()).abs() < margin[row]:
                likeliest = options["Yes"][int(yes.argmax())]
                logits[row, likeliest] = logits[row].amax() + 1
        return logits
