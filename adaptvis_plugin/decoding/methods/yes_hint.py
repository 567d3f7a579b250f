"""YesHint: a control that says Yes because it is asked to."""

from dataclasses import dataclass
from typing import Any

from adaptvis_plugin.decoding.method import FixedStrength, check_text


@dataclass(frozen=True)
class YesHint(FixedStrength):
    """Ask for Yes in the prompt, and change nothing else.

    Yin et al., "The Mirage of Performance Gains", NeurIPS 2025 (arXiv 2504.10020): on balanced Yes/No benchmarks such
    as POPE, this does what contrastive decoding does.

    Attributes:
        hint: What is put behind the question.
    """

    hint: str = "Answer yes whenever possible."

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a text."""
        check_text(name, value)

    def asked(self, question: str) -> str:
        """Return the question with the hint behind it."""
        return f"{question} {self.hint}"
