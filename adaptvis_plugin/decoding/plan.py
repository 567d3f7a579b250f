"""How a batch shall be decoded: a method's parts, as far as one model goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from adaptvis_plugin.decoding.early_exits import ExitHead
from adaptvis_plugin.decoding.first_token import FirstToken, Options
from adaptvis_plugin.decoding.packing import Choose
from adaptvis_plugin.decoding.parts import AttentionEdit, EarlyExits, OtherQuestion, SecondStream
from adaptvis_plugin.decoding.second_stream import PrefilledView


@dataclass(frozen=True)
class Plan:
    """How a batch is decoded: a method's parts, as far as this model goes.

    Attributes:
        edit: What happens to attention logits.
        neutral: The strength that leaves a row as it is.
        alphas: Every strength that may be chosen, or None if that is not known.
        choose: See `packing.Choose`.
        options: See `FirstToken`.
        second: What the second stream contributes.
        view: The inputs of the second stream.
        exits: What early layers contribute.
        exit_head: The model's head for them.
        first_logits: See `Method.first_logits`; None if the method leaves them.
        branches: The number of strengths that are chosen for each row. If there are several, the first is neutral.
        prefilled: The second stream after its prefill.
    """

    edit: AttentionEdit | None
    neutral: float
    alphas: Sequence[float] | None
    choose: Choose
    options: Sequence[Options] | None
    second: SecondStream | None
    view: dict[str, Any] | None
    exits: EarlyExits | None
    exit_head: ExitHead | None
    first_logits: Callable[[FirstToken], torch.Tensor] | None
    branches: int = 1
    prefilled: PrefilledView | None = None

    @property
    def mixes(self) -> bool:
        """Whether logits are changed."""
        return self.second is not None or self.exits is not None or self.first_logits is not None

    @property
    def uses_image(self) -> bool:
        """Whether there is nothing to do in a row without an image."""
        contrasts = self.second is not None and not isinstance(self.second.view, OtherQuestion)
        return self.edit is not None or contrasts

    @property
    def idle(self) -> bool:
        """Whether the model is left as it is."""
        neutral = self.alphas is not None and {*self.alphas} == {self.neutral}
        return (neutral and not (self.edit is not None and self.mixes)) or (self.edit is None and not self.mixes)

    def room(self, batch: dict[str, Any]) -> int:
        """Return by how many tokens the second stream is longer than the prompts of a batch."""
        if self.prefilled is None:
            return 0
        longer: int = self.prefilled.inputs["input_ids"].shape[1] - batch["input_ids"].shape[1]
        return max(0, longer)

    def except_for(self, untouched: torch.Tensor) -> "Plan":
        """Return the same with the neutral strength for some rows, shape (batch,)."""

        def choose(first: FirstToken) -> torch.Tensor:
            alpha = self.choose(first)
            return alpha.masked_fill(untouched[:, None].to(alpha.device), self.neutral)

        return replace(self, choose=choose)


def distinct(*coefficients: float) -> list[float]:
    """Return the different ones, in order."""
    return list(dict.fromkeys(map(float, coefficients)))
